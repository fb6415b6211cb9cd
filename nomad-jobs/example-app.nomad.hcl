# A web server that HAProxy finds by its tags. Which backend it goes to is decided by the service's name:
#
#   nomad job run nomad-jobs/example-app.nomad.hcl
#   nomad job run -var service=api nomad-jobs/example-app.nomad.hcl

variable "service" {
  type        = string
  default     = "web"
  description = "The service, and the job. The shipped HAProxy configurations have the backends web and api."
}

variable "count" {
  type    = number
  default = 2
}

variable "driver" {
  type        = string
  default     = "exec"
  description = "exec, raw_exec or docker."
}

variable "server" {
  type        = list(string)
  default     = ["python3", "-m", "http.server", "--directory", "$${NOMAD_TASK_DIR}", "--bind", "$${NOMAD_IP_http}", "$${NOMAD_PORT_http}"]
  description = "The web server's command line."
}

variable "image" {
  type        = string
  default     = "python:3-alpine"
  description = "For docker."
}

job "example-app" {
  id   = var.service
  name = var.service

  group "app" {
    count = var.count

    network {
      port "http" {}
    }

    update {
      max_parallel     = 1
      health_check     = "checks"
      min_healthy_time = "2s"
    }

    # Deregistered first, stopped later: HAProxy lets the requests in flight finish meanwhile.
    shutdown_delay = "5s"

    service {
      name     = var.service
      provider = "nomad"
      port     = "http"
      tags     = ["haproxy.enable=true"]
      # For Nomad's deployments. HAProxy checks by itself, as its configuration says.
      check {
        type     = "http"
        path     = "/"
        interval = "2s"
        timeout  = "1s"
      }
    }

    task "server" {
      driver = var.driver

      config {
        command      = var.server[0]
        args         = slice(var.server, 1, length(var.server))
        image        = var.driver == "docker" ? var.image : null
        network_mode = var.driver == "docker" ? "host" : null
      }

      template {
        data        = "{{ env \"NOMAD_JOB_ID\" }} {{ env \"NOMAD_SHORT_ALLOC_ID\" }}\n"
        destination = "local/index.html"
      }

      resources {
        cpu    = 50
        memory = 64
      }
    }
  }
}
