# Lets the sidecar's workload identity follow the event stream of its namespace instead of polling it.
#
#   nomad acl policy apply -namespace default -job haproxy -group haproxy -task sidecar \
#     haproxy-nomad-sidecar nomad-jobs/event-stream.policy.hcl

namespace "default" {
  capabilities = ["read-job"]
}
