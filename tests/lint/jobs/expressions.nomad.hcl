# What only Nomad can evaluate.

variable "tags" {
  type    = list(string)
  default = ["haproxy.enable=true"]
}

variable "delay" {
  default = "15s"
}

job "expressions" {
  group "app" {
    shutdown_delay = var.delay

    network {
      port "http" {}
    }

    service {
      name     = "listed"
      provider = "nomad"
      port     = "http"
      tags     = var.tags
    }

    service {
      name     = "joined"
      provider = join("", ["no", "mad"])
      port     = "http"
      tags     = ["haproxy.enable=true", format("haproxy.weight=%d", 500), "urlprefix-${var.delay}"]
    }

    dynamic "service" {
      for_each = ["one", "two"]
      content {
        name     = service.value
        provider = "nomad"
        port     = "http"
        tags     = ["haproxy.enable=true"]
      }
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
