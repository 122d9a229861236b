# kato-node.nomad.hcl
# On every client: what is mounted for an allocation is mounted by the daemon beside it.
job "kato-node" {
  datacenters = ["*"]
  type        = "system"

  group "kato" {
    task "kato" {
      driver = "docker"

      config {
        image = "kato:0.1.0"
        privileged = true
        pid_mode   = "host"
        args       = ["serve", "--role", "all"]
        mount {
          type     = "bind"
          source   = "/var/lib/kato"
          target   = "/var/lib/kato"
          readonly = false
          bind_options {
            propagation = "rshared"
          }
        }
        mount {
          type     = "bind"
          source   = "/run/kato"
          target   = "/run/kato"
          readonly = false
        }
        mount {
          type     = "bind"
          source   = "/dev"
          target   = "/dev"
          readonly = false
        }
        volumes = [
          "local/config.toml:/etc/kato/config.toml:ro",
          "secrets/seal:/etc/kato-seal/key:ro",
        ]
      }

      csi_plugin {
        id                     = "kato"
        type                   = "monolith"
        mount_dir              = "/csi"
        stage_publish_base_dir = "/local/csi"
        health_timeout         = "5m"
      }

      env {
        CSI_ENDPOINT   = "unix:///csi/csi.sock"
        KATO__NODE__ID = "${node.unique.name}"
      }

      template {
        destination     = "local/config.toml"
        left_delimiter  = "<<<"
        right_delimiter = ">>>"
        data            = <<-TOML
[cluster]
id = "0123456789abcdef0123456789abcdef"

[csi]
roots = ["/local/csi"]

[csi.seal]
file = "/etc/kato-seal/key"

[docker]
enabled = false
TOML
      }

      template {
        destination = "secrets/seal"
        perms       = "0400"
        data        = "{{ with nomadVar \"nomad/jobs/kato-node\" }}{{ index . \"seal\" }}{{ end }}"
      }

      resources {
        cpu    = 100
        memory = 256
      }
    }
  }
}

# volume.hcl
# `nomad volume create volume.hcl` makes it.
# It lives on the client that makes it. `nomad volume delete` asks any client, so let `kato volume rm` on its own
# one delete it, and `nomad volume deregister` after that.
id           = "db"
name         = "db"
type         = "csi"
plugin_id    = "kato"
capacity_min = "10GiB"
capacity_max = "10GiB"

capability {
  access_mode     = "single-node-writer"
  attachment_mode = "file-system"
}

mount_options {
  fs_type = "ext4"
}

parameters {
  class = "default"
}
