# Nomad evaluates nothing here, since it is asked without the value and the file. What is literal is read.

variable "weight" {
  type = number
}

job "unset" {
  group "web" {
    shutdown_delay = "1m"

    network {
      port "http" {}
    }

    service {
      name     = "web"
      provider = "nomad"
      port     = "http"
      tags     = ["haproxy.enable=true", "haproxy.weight=${var.weight}", file("tag")]
    }

    service {
      name     = "hidden"
      provider = "nomad"
      port     = "http"
      tag      = ["haproxy.enable=true"]
    }
  }
}
