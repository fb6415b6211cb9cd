# As the users of the Go connector write their jobs.

job "web" {
  group "app" {
    shutdown_delay = "12s"

    network {
      port "http" {}
    }

    service {
      name     = "my-web"
      provider = "nomad"
      port     = "http"
      tags = [
        "haproxy.enable=true",
        "haproxy.backend=dynamic",
        "haproxy.backend.name=web",
        "haproxy.domain=web.example",
        "haproxy.domain=www.web.example",
        "haproxy.domain.type=prefix",
        "haproxy.check.path=/health",
        "haproxy.check.method=HEAD",
        "haproxy.check.host=web.example",
        "haproxy.check.type=http",
        "haproxy.check.disabled=false",
        "haproxy.timeout=5s",
      ]
    }

    service {
      name     = "my-static"
      provider = "nomad"
      port     = "http"
      tags     = ["haproxy.enable", "haproxy.check.disabled"]
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
