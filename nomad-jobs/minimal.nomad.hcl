# The least that serves: HAProxy as Debian's package brings it, and the sidecar. It needs no variable, and no ACLs.
# haproxy.nomad.hcl has users, drivers and images to choose.
#
#   nomad job run nomad-jobs/minimal.nomad.hcl

job "lb" {
  group "lb" {
    network {
      port "http" { static = 8080 }
      # Where `explain` and `status` look by themselves.
      port "admin" { static = 9417 }
    }
    shutdown_delay = "5s"

    # For ever: a task that fails for good would take the other one down with it.
    restart {
      attempts = 10
      interval = "1m"
      delay    = "1s"
      mode     = "delay"
    }

    # Ready when the first sync is applied and checked: an update never puts an empty HAProxy in place of a full one.
    service {
      name     = "lb"
      provider = "nomad"
      port     = "admin"
      check {
        type     = "http"
        path     = "/ready"
        interval = "5s"
        timeout  = "2s"
      }
    }

    task "haproxy" {
      driver = "raw_exec"
      config {
        command = "/usr/sbin/haproxy"
        args    = ["-W", "-db", "-f", "${NOMAD_TASK_DIR}/haproxy.cfg"]
      }
      template {
        destination = "local/haproxy.cfg"
        change_mode = "noop"
        data        = <<-EOF
          global
            stats socket "$${NOMAD_ALLOC_DIR}/haproxy.sock" mode 660 level admin
          defaults
            mode http
            timeout connect 2s
            timeout client 30s
            timeout server 30s
            option httpchk GET /
          frontend http
            bind ":$${NOMAD_PORT_http}"
            default_backend web
          backend web
            balance roundrobin
        EOF
      }
    }

    task "sidecar" {
      driver = "raw_exec"
      config {
        command = "/usr/local/bin/haproxy-nomad-sidecar"
      }
      # With this it may read the services of its namespace.
      identity {
        env  = true
        file = true
      }
      env {
        SIDECAR_ADMIN_LISTEN = "${NOMAD_ADDR_admin}"
      }
    }
  }
}
