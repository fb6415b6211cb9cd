# HAProxy and its sidecar in one group.
#
#   nomad job run nomad-jobs/haproxy.nomad.hcl
#   nomad job run -var driver=docker -var haproxy_config=nomad-jobs/haproxy-dynamic.cfg nomad-jobs/haproxy.nomad.hcl
#
# A load balancer on every node is the same job with `type = "system"`.

variable "driver" {
  type        = string
  default     = "exec"
  description = "How both tasks run: exec, raw_exec or docker."
  validation {
    condition     = contains(["exec", "raw_exec", "docker"], var.driver)
    error_message = "The driver is exec, raw_exec or docker."
  }
}

variable "haproxy_config" {
  type        = string
  default     = "nomad-jobs/haproxy-slots.cfg"
  description = "HAProxy's configuration, as seen from where nomad runs: haproxy-slots.cfg, haproxy-dynamic.cfg, haproxy-zero-touch.cfg (HAProxy 3.4), or your own."
}

variable "haproxy_binary" {
  type        = string
  default     = "/usr/sbin/haproxy"
  description = "For exec (a path that chroot_env brings into the task) and raw_exec."
}

variable "sidecar_binary" {
  type        = string
  default     = "/usr/local/bin/haproxy-nomad-sidecar"
  description = "For exec (a path that chroot_env brings into the task) and raw_exec."
}

variable "haproxy_image" {
  type    = string
  default = "haproxy:3.2"
}

variable "sidecar_image" {
  type    = string
  default = "haproxy-nomad-sidecar:latest"
}

# HAProxy's socket has mode 660: two users are fine as long as they share the group that HAProxy's process has.
variable "haproxy_user" {
  type        = string
  default     = ""
  description = "Empty is the driver's own: nobody for exec, the agent's for raw_exec, the image's for docker."
}

variable "sidecar_user" {
  type        = string
  default     = ""
  description = "Empty is the driver's own; for docker it is 10001 in the group of HAProxy's official image, 99."
}

variable "sidecar_args" {
  type        = list(string)
  default     = []
  description = "For example [\"run\", \"--observe\"]."
}

variable "http_port" {
  type        = number
  default     = 8080
  description = "The port on the node; 0 lets Nomad choose."
}

variable "count" {
  type    = number
  default = 1
}

variable "canaries" {
  type        = number
  default     = 0
  description = "New groups started beside the old ones at an update. Each needs a free http_port."
}

locals {
  docker       = var.driver == "docker"
  sidecar_user = var.sidecar_user == "" && local.docker ? "10001:99" : var.sidecar_user
}

job "haproxy" {
  group "haproxy" {
    count = var.count

    network {
      port "http" {
        static = var.http_port
      }
      port "admin" {}
    }

    # A new group is healthy, and the old one stopped, only when both checks below pass: /ready says no until the first
    # sync is applied. Without that an update would put an empty HAProxy in place of a full one.
    update {
      max_parallel     = 1
      canary           = var.canaries
      auto_promote     = var.canaries > 0
      auto_revert      = true
      health_check     = "checks"
      min_healthy_time = "5s"
      healthy_deadline = "3m"
    }

    # Whoever sends traffic here has this long to see the deregistration.
    shutdown_delay = "5s"

    service {
      name     = "haproxy"
      provider = "nomad"
      port     = "http"
      check {
        type     = "http"
        path     = "/haproxy-alive"
        interval = "5s"
        timeout  = "2s"
      }
    }

    service {
      name     = "haproxy-nomad-sidecar"
      provider = "nomad"
      port     = "admin"
      # No check_restart: a restart of the sidecar repairs nothing that it waits for.
      check {
        type     = "http"
        path     = "/ready"
        interval = "5s"
        timeout  = "2s"
      }
    }

    task "haproxy" {
      driver = var.driver
      user   = var.haproxy_user

      # -W: `nomad alloc signal -s SIGUSR2 -task haproxy <allocation>` reloads. A state file that the sidecar has not marked as
      # current for a minute is from before a time in which both were away: its addresses may be others' by now. Where there is
      # no find, any is removed.
      config {
        command      = "/bin/sh"
        image        = local.docker ? var.haproxy_image : null
        network_mode = local.docker ? "host" : null
        args = [
          "-c",
          "find \"$NOMAD_ALLOC_DIR/haproxy.state\" -mmin +1 -delete 2>/dev/null || rm -f \"$NOMAD_ALLOC_DIR/haproxy.state\"; exec \"$0\" \"$@\"",
          local.docker ? "haproxy" : var.haproxy_binary, "-W", "-db", "-f", "${NOMAD_TASK_DIR}/haproxy.cfg",
        ]
      }

      template {
        data        = file(var.haproxy_config)
        destination = "local/haproxy.cfg"
        change_mode = "noop"
      }

      # A soft stop: requests in flight are finished, at the longest for hard-stop-after of the configuration.
      kill_signal  = "SIGUSR1"
      kill_timeout = "15s"

      # A task that fails for good takes its siblings down with it. "delay" never gives up.
      restart {
        attempts = 10
        interval = "1m"
        delay    = "1s"
        mode     = "delay"
      }

      resources {
        cpu    = 200
        memory = 256
      }
    }

    task "sidecar" {
      driver = var.driver
      user   = local.sidecar_user

      config {
        command      = local.docker ? null : var.sidecar_binary
        image        = local.docker ? var.sidecar_image : null
        network_mode = local.docker ? "host" : null
        args         = var.sidecar_args
        # It needs no right but those of its user. raw_exec cannot take any away.
        cap_drop        = var.driver == "raw_exec" ? null : ["all"]
        readonly_rootfs = local.docker ? true : null
        security_opt    = local.docker ? ["no-new-privileges"] : null
      }

      # Nomad is read over the Task API with this identity. Reading services needs no ACL policy; the event stream does:
      # see event-stream.policy.hcl.
      identity {
        env  = true
        file = true
      }

      # HAProxy's socket is found at ${NOMAD_ALLOC_DIR}/haproxy.sock. The last good catalog is kept in
      # ${NOMAD_ALLOC_DIR}/data, for a start of both tasks while Nomad is away.
      # The state file is what haproxy-slots.cfg reads; it is of no
      # use, and does no harm, without slots.
      env {
        SIDECAR_ADMIN_LISTEN = "${NOMAD_ADDR_admin}"
        SIDECAR_STATE_FILE   = "${NOMAD_ALLOC_DIR}/haproxy.state"
      }

      # The sidecar must never take HAProxy down.
      restart {
        attempts = 10
        interval = "1m"
        delay    = "1s"
        mode     = "delay"
      }

      resources {
        cpu    = 50
        memory = 64
      }
    }
  }
}
