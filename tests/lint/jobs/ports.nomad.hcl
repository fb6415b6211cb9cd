# What Nomad makes of a service's port, as seen with Nomad 2.0.5.

variable "address_mode" {
  default = "alloc"
}

job "ports" {
  group "web" {
    shutdown_delay = "15s"

    network {
      port "http" {}
      port "admin" {
        static = 9000
      }
    }

    service {
      name     = "right"
      provider = "nomad"
      port     = "admin"
      tags     = ["haproxy.enable=true"]
    }

    # Nomad takes the job, and every allocation fails: port label not found.
    service {
      name     = "misspelt"
      provider = "nomad"
      port     = "htpp"
      tags     = ["haproxy.enable=true"]
    }

    service {
      name     = "unknown"
      provider = "nomad"
      port     = "metrics"
      tags     = ["haproxy.enable=true"]
    }

    # It is registered with port 0.
    service {
      name     = "none"
      provider = "nomad"
      tags     = ["haproxy.enable=true"]
    }

    # It is registered without an address,
    service {
      name     = "number"
      provider = "nomad"
      port     = 8080
      tags     = ["haproxy.enable=true"]
    }

    # unless it has one.
    service {
      name     = "number-with-address"
      provider = "nomad"
      port     = "8080"
      address  = "10.1.2.3"
      tags     = ["haproxy.enable=true"]
    }

    service {
      name         = "number-of-allocation"
      provider     = "nomad"
      port         = "8080"
      address_mode = "alloc"
      tags         = ["haproxy.enable=true"]
    }

    service {
      name     = "no-port"
      provider = "nomad"
      port     = "70000"
      address  = "10.1.2.3"
      tags     = ["haproxy.enable=true"]
    }

    # Nobody asks the sidecar to serve it.
    service {
      name     = "others"
      provider = "nomad"
      port     = "grpc"
    }

    task "server" {
      driver         = "raw_exec"
      shutdown_delay = "15s"
      config {
        command = "sleep"
        args    = ["infinity"]
      }

      service {
        name     = "of-the-group"
        provider = "nomad"
        port     = "http"
        tags     = ["haproxy.enable=true"]
      }

      # Nomad refuses the job.
      service {
        name     = "of-nobody"
        provider = "nomad"
        port     = "htp"
        tags     = ["haproxy.enable=true"]
      }

      service {
        name     = "number-of-task"
        provider = "nomad"
        port     = "8080"
        tags     = ["haproxy.enable=true"]
      }

      service {
        name         = "number-of-driver"
        provider     = "nomad"
        port         = "8080"
        address_mode = "driver"
        tags         = ["haproxy.enable=true"]
      }
    }
  }

  # As jobs declared ports before Nomad 0.12: these are the task's alone.
  group "old" {
    shutdown_delay = "15s"

    service {
      name     = "of-a-task"
      provider = "nomad"
      port     = "http"
      tags     = ["haproxy.enable=true"]
    }

    service {
      name     = "number-without-network"
      provider = "nomad"
      port     = "8080"
      tags     = ["haproxy.enable=true"]
    }

    task "server" {
      driver         = "raw_exec"
      shutdown_delay = "15s"
      config {
        command = "sleep"
        args    = ["infinity"]
      }
      resources {
        network {
          port "http" {}
        }
      }

      service {
        name     = "old"
        provider = "nomad"
        port     = "http"
        tags     = ["haproxy.enable=true"]
      }
    }
  }

  # What is made cannot be seen in the file.
  group "made" {
    shutdown_delay = "15s"

    network {
      dynamic "port" {
        for_each = ["http"]
        labels   = [port.value]
        content {}
      }
    }

    service {
      name     = "of-a-made-port"
      provider = "nomad"
      port     = "http"
      tags     = ["haproxy.enable=true"]
    }

    service {
      name     = "later"
      provider = "nomad"
      port     = "${NOMAD_META_port}"
      address  = "${attr.unique.network.ip-address}"
      tags     = ["haproxy.enable=true"]
    }

    service {
      name         = "perhaps-of-allocation"
      provider     = "nomad"
      port         = "8080"
      address_mode = var.address_mode
      tags         = ["haproxy.enable=true"]
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
