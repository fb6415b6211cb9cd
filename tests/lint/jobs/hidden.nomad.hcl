# Mistakes that are behind others in the same service.

job "hidden" {
  group "web" {
    shutdown_delay = "1m"

    network {
      port "http" {}
    }

    service {
      name     = "profile"
      provider = "nomad"
      port     = "http"
      tags = [
        "haproxy.enable=true",
        "haproxy.tls.profile=nix",
        "haproxy.domain=ok.example,bad host",
        "haproxy.path=foo",
        "haproxy.port=abc",
        "haproxy.backend.profile=nix",
        "haproxy.wieght=${meta.weight}",
        "haproxy.weight=200",
      ]
    }

    service {
      provider = "nomad"
      port     = "http"
      name     = "shop.name"
      tags = [
        "haproxy.enable=true",
        "haproxy.domain=bad host",
      ]
      canary_tags = [
        "haproxy.enable=true",
        "haproxy.domain=bad host",
      ]
    }

    service {
      name     = "both"
      provider = "nomad"
      port     = "http"
      tags = [
        "haproxy.enable=true",
        "haproxy.path=/shop/",
        "haproxy.domain=*.other.example",
      ]
    }

    service {
      name     = "refused"
      provider = "nomad"
      port     = "http"
      tags = [
        "haproxy.enable=true",
        "haproxy.domain=web.example",
        "haproxy.sni=other.example",
        "haproxy.backend.name=other",
      ]
    }
  }
}
