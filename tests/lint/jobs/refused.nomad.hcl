# What Nomad refuses, and takes for no service or no tags. Only that is wrong here.

job "refused" {
  group "web" {
    shutdown_delay = "1m"

    network {
      port "http" {}
    }

    servce {
      name     = "hidden"
      provider = "nomad"
      port     = "http"
      tags     = ["haproxy.enable=true"]
    }

    service {
      name     = "one"
      provider = "nomad"
      port     = "http"
      tag      = ["haproxy.enable=true"]
    }

    service {
      name     = "capital"
      provider = "nomad"
      port     = "http"
      Tags     = ["haproxy.enable=true"]
      labels   = ["traefik.enable=true"]
    }

    service {
      name        = "text"
      provider    = "nomad"
      port        = "http"
      tags        = "haproxy.enable=true"
      canary_tags = { haproxy = true }
    }

    service {
      name     = "blocks"
      provider = "nomad"
      port     = "http"
      tags {
        haproxy = true
      }
      meta = { a = "b" }
      chek {
        type = "tcp"
      }
    }

    task "server" {
      driver = "raw_exec"
      servise {
        provider = "nomad"
      }
    }
  }

  gruop "other" {}
}
