# Everything that lint finds, once.

variable "weight" {
  default = 5
}

job "shop" {
  group "web" {
    network {
      port "http" {}
    }

    shutdown_delay = "3s"

    service {
      name     = "shop-web"
      provider = "nomad"
      port     = "http"
      tags = [
        "haproxy.enable=true",
        "haproxy.wieght=3",
        "haproxy.maxconn=lots",
        "haproxy.drain.timeout=5s",
        "haproxy.weight=${var.weight}",
        "haproxy.domain=shop.example",
        "HAProxy.hold=30s",
        "traefik.enable=true",
      ]
      canary_tags = ["haproxy.canary=true"]
    }

    # Nomad takes Consul for who registers it.
    service {
      name = "shop-consul"
      port = "http"
      tags = ["haproxy.enable=true", "haproxy.drain.timeout=1s"]
    }

    service {
      name     = "shop-forgot"
      provider = "nomad"
      port     = "http"
      tags     = ["haproxy.weight=3"]
    }

    service {
      name     = "shop-other"
      provider = "nomad"
      port     = "http"
      tags     = ["urlprefix-/other"]
    }

    task "server" {
      driver = "raw_exec"
      config {
        command = "sleep"
        args    = ["infinity"]
      }

      service {
        name     = "shop.admin"
        provider = "nomad"
        tags     = ["haproxy.enable"]
      }

      service {
        name     = "shop-named"
        provider = "nomad"
        port     = "http"
        address  = "db.example"
        tags     = ["haproxy.enable=true", "haproxy.backend.name=a;b", "haproxy.hold=${meta.hold}"]
      }
    }

    task "migrate" {
      lifecycle {
        hook = "prestart"
      }
      driver         = "raw_exec"
      shutdown_delay = "1m"
      config {
        command = "true"
      }
    }
  }
}
