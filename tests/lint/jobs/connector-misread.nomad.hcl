# Tags of the Go connector that are wrong only beside others, or that nobody reads.

job "misread" {
  group "web" {
    shutdown_delay = "1m"

    network {
      port "http" {}
    }

    service {
      name     = "misread"
      provider = "nomad"
      port     = "http"
      tags = [
        "haproxy.enable=true",
        "haproxy.weight=3",
        "haproxy.weight=4",
        "Haproxy.maxconn=5",
        "haproxy-enable=true",
      ]
    }

    service {
      name     = "perhaps"
      provider = "nomad"
      port     = "htpp"
      tags     = concat(["haproxy.enable=true"])
    }
  }
}
