# example-app.nomad.hcl in compose.yaml: Nomad's image has no container runtime and no Python, but it has busybox.

driver = "raw_exec"
server = ["busybox", "httpd", "-f", "-h", "$${NOMAD_TASK_DIR}", "-p", "$${NOMAD_ADDR_http}"]
