# Tags of the Go connector that cannot be read, or not without Nomad.

variable "service" {
  default = "shop-web"
}

variable "tags" {
  type    = list(string)
  default = ["haproxy.enable=true"]
}

job "shop" {
  group "app" {
    shutdown_delay = "12s"

    network {
      port "http" {}
    }

    service {
      name     = "named-by-a-tag"
      provider = "nomad"
      port     = "http"
      tags     = ["haproxy.enable=true", "haproxy.backend.name=${var.service}"]
    }

    service {
      name     = var.service
      provider = "nomad"
      port     = "http"
      tags     = ["haproxy.enable=true", "haproxy.weight=${meta.weight}"]
    }

    service {
      name     = "tags"
      provider = "nomad"
      port     = "http"
      tags     = concat(var.tags, ["haproxy.domain=shop.example"])
    }

    service {
      name     = "bad-value"
      provider = "nomad"
      port     = "http"
      tags     = ["haproxy.enable=true", "haproxy.weight=500", "haproxy.domain=shop.example,no host"]
    }

    service {
      name     = "bad-backend"
      provider = "nomad"
      port     = "http"
      tags     = ["haproxy.enable=true", "haproxy.backend.name=a;b"]
    }

    service {
      name     = "bad.name"
      provider = "nomad"
      port     = "http"
      tags     = ["haproxy.enabel=true", "haproxy.domain=no host"]
    }

    service {
      name     = "bad-address"
      provider = "nomad"
      port     = "http"
      address  = "db.example"
      tags     = ["haproxy.enable=false"]
    }

    task "server" {
      driver = "raw_exec"
      config {
        command = "sleep"
        args    = ["infinity"]
      }
    }
  }
}
