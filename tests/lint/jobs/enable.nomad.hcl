# The tag that opts in is misspelt: the services are judged as they were meant.

job "enable" {
  group "app" {
    network {
      port "http" {}
    }

    service {
      name = "key"
      port = "http"
      tags = ["haproxy.enabel=true", "haproxy.weight=500"]
    }

    service {
      name     = "prefix"
      provider = "nomad"
      port     = "htpp"
      tags     = ["haporxy.enable=true"]
    }

    service {
      name        = "canary"
      provider    = "nomad"
      port        = "http"
      tags        = ["haproxy.enable=true"]
      canary_tags = ["haproxy.enabled=true", "haproxy.canary=true"]
    }

    service {
      name     = "off"
      provider = "nomad"
      port     = "http"
      tags     = ["haproxy.enabled=false"]
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
