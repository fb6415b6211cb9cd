# A web server that HAProxy finds by its tags, in a job as docs/jobs.md advises it. Which backend it goes to is decided by
# the service's name:
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

variable "canaries" {
  type        = number
  default     = 1
  description = "New instances that are started beside the old ones at an update. A service with one instance needs one."
}

variable "auto_promote" {
  type        = bool
  default     = true
  description = "With false, canaries wait for `nomad deployment promote`."
}

variable "release" {
  type        = string
  default     = "1"
  description = "Another one is an update."
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
      canary           = var.canaries
      auto_promote     = var.canaries > 0 && var.auto_promote
      auto_revert      = true
      health_check     = "checks"
      min_healthy_time = "3s" # HAProxy's own check has passed by then.
      healthy_deadline = "2m"
    }

    # The same for a node that is drained.
    migrate {
      max_parallel     = 1
      health_check     = "checks"
      min_healthy_time = "3s"
      healthy_deadline = "2m"
    }

    # Between the deregistration and the kill signal: longer than the drain, and than its replacement needs to be UP.
    shutdown_delay = "8s"

    service {
      name     = var.service
      provider = "nomad"
      port     = "http"
      # The drain is as long as the longest request.
      tags        = ["haproxy.enable=true", "haproxy.drain.timeout=5s"]
      canary_tags = ["haproxy.enable=true", "haproxy.drain.timeout=5s", "haproxy.canary=true"]
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

      # What the drain did not wait for: the longest request once more.
      kill_timeout = "5s"

      config {
        command      = var.server[0]
        args         = slice(var.server, 1, length(var.server))
        image        = var.driver == "docker" ? var.image : null
        network_mode = var.driver == "docker" ? "host" : null
      }

      # A task that crashed comes back on its node, with the same registration.
      restart {
        attempts = 3
        interval = "5m"
        delay    = "1s"
        mode     = "fail"
      }

      template {
        data        = "{{ env \"NOMAD_JOB_ID\" }} {{ env \"NOMAD_SHORT_ALLOC_ID\" }}\n"
        destination = "local/index.html"
      }

      env {
        RELEASE = var.release
      }

      resources {
        cpu    = 50
        memory = 64
      }
    }
  }
}
