//! Nomad: a job for the nodes, one for the controller where there is work for it, and a volume to begin with. The text
//! of the jobs is HCL; what the operator wrote comes into it in quotes, or in a template that Nomad leaves as it is.

use std::path::Path;

use super::{FILES, File, SEAL, Site, carried::Reference, site::Form};
use crate::cli::{Exit, Failure};

/// What the operator decides besides the configuration.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    /// What jobs and the plugin are called.
    pub(crate) name: String,
    pub(crate) image: String,
    pub(crate) datacenters: Vec<String>,
    pub(crate) log_level: Option<String>,
}

/// Where Nomad has the plugin mount, in the container; no caller has a reason to name another place.
const VOLUMES: &str = "/local/csi";

/// The files, and what has to be there before they are used.
pub(crate) fn jobs(mut site: Site, wish: &Wish) -> Result<(Vec<File>, Vec<String>), Failure> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if wish.name.is_empty() || !wish.name.chars().all(fits) {
        return Err(Failure::usage(format!(
            "--name {:?} cannot be the name of a job: use letters, digits, -",
            wish.name
        )));
    }
    if let Some(level) = &wish.log_level {
        site.configuration.put(&["log", "level"], level.as_str());
    }
    site.configuration.default_to(&["csi", "roots"], vec![toml::Value::from(VOLUMES)]);
    let class = site.default_class.clone().or_else(|| site.classes.first().map(|class| class.name.clone()));
    let class = class.ok_or_else(|| {
        Failure::new(Exit::Config, "no class is of these backends: nothing could be asked for")
    })?;
    let mut files = Vec::new();
    let mut names = vec![format!("{}-node", wish.name)];
    let (kind, role) = match site.form {
        Form::Shared => ("node", "node"),
        Form::NodeBound => ("monolith", "all"),
    };
    files.push(File { name: format!("{}-node.nomad.hcl", wish.name), text: node(&site, wish, kind, role) });
    if site.form == Form::Shared {
        names.push(format!("{}-controller", wish.name));
        files.push(File {
            name: format!("{}-controller.nomad.hcl", wish.name),
            text: controller(&site, wish),
        });
    }
    files.push(File { name: "volume.hcl".to_owned(), text: volume(&site, wish, class.as_str()) });
    let needs = needs(&site, &names);
    Ok((files, needs))
}

fn node(site: &Site, wish: &Wish, kind: &str, role: &str) -> String {
    let mut mounts = String::new();
    let own = [(site.data.as_path(), true), (site.run.as_path(), false), (Path::new("/dev"), false)];
    let granted = site.granted.iter().map(|path| (path.as_path(), false));
    for (path, shared) in own.into_iter().chain(granted) {
        mounts += &bind(path, shared);
    }
    // A volume that is reached over the network outlives the container, and so must the network that it was reached by.
    let network = if site.network { "        network_mode = \"host\"\n" } else { "" };
    let config = format!(
        "        privileged = true\n        pid_mode   = \"host\"\n{network}        args       = [\"serve\", \"--role\", \"{role}\"]\n{mounts}"
    );
    let head = "# On every client: what is mounted for an allocation is mounted by the daemon beside it.\n";
    format!("{head}{}", job(site, wish, &format!("{}-node", wish.name), "system", "", kind, &config))
}

fn controller(site: &Site, wish: &Wish) -> String {
    let config = "        args = [\"serve\", \"--role\", \"controller\"]\n";
    let head = "# Makes volumes and attaches them. Its own records are a cache: it may run anywhere, twice, and anew.\n";
    let count = "    count = 2\n\n";
    format!(
        "{head}{}",
        job(site, wish, &format!("{}-controller", wish.name), "service", count, "controller", config)
    )
}

fn job(site: &Site, wish: &Wish, name: &str, kind: &str, count: &str, plugin: &str, config: &str) -> String {
    let centers: Vec<String> = wish.datacenters.iter().map(|name| quoted(name)).collect();
    format!(
        "job {} {{\n  datacenters = [{}]\n  type        = \"{kind}\"\n\n  group \"kato\" {{\n{count}    task \"kato\" {{\n      \
         driver = \"docker\"\n\n      config {{\n        image = {}\n{config}        volumes = [\n{}        ]\n      }}\n\n      \
         csi_plugin {{\n        id                     = {}\n        type                   = \"{plugin}\"\n        mount_dir              = \
         \"/csi\"\n        stage_publish_base_dir = \"{VOLUMES}\"\n        health_timeout         = \"5m\"\n      }}\n\n      env {{\n        \
         CSI_ENDPOINT   = \"unix:///csi/csi.sock\"\n        KATO__NODE__ID = \"${{node.unique.name}}\"\n      }}\n\n{}      \
         resources {{\n        cpu    = 100\n        memory = 256\n      }}\n    }}\n  }}\n}}\n",
        quoted(name),
        centers.join(", "),
        quoted(&wish.image),
        given(site),
        quoted(&wish.name),
        templates(site, name),
    )
}

/// A folder of the host at its own path.
fn bind(path: &Path, shared: bool) -> String {
    let path = quoted(&path.display().to_string());
    let options = if shared {
        "\n          bind_options {\n            propagation = \"rshared\"\n          }"
    } else {
        ""
    };
    format!(
        "        mount {{\n          type     = \"bind\"\n          source   = {path}\n          target   = {path}\n          \
         readonly = false{options}\n        }}\n"
    )
}

/// Where the daemon finds what the templates made: Nomad keeps it in the task's own folders.
fn given(site: &Site) -> String {
    let mut lines = format!(
        "          \"local/config.toml:/etc/kato/config.toml:ro\",\n          \"secrets/seal:{SEAL}:ro\",\n"
    );
    if site.references().iter().any(|reference| matches!(reference, Reference::File { .. })) {
        lines += &format!("          \"secrets/files:{FILES}:ro\",\n");
    }
    lines
}

fn templates(site: &Site, job: &str) -> String {
    let secret = |key: &str| {
        format!("{{{{ with nomadVar \"nomad/jobs/{job}\" }}}}{{{{ index . \"{key}\" }}}}{{{{ end }}}}")
    };
    // The delimiters are none that a configuration has: it is to be left as it is.
    let mut text = format!(
        "      template {{\n        destination     = \"local/config.toml\"\n        left_delimiter  = \"<<<\"\n        \
         right_delimiter = \">>>\"\n        data            = <<-TOML\n{}TOML\n      }}\n\n",
        heredoc(&site.configuration.text())
    );
    text += &template("secrets/seal", &secret("seal"), "");
    let mut variables = String::new();
    for reference in site.references() {
        match reference {
            Reference::File { key, .. } => {
                text += &template(&format!("secrets/files/{key}"), &secret(key), "")
            }
            Reference::Variable(name) => {
                variables += &format!("{name}={}\\n", secret(name).replace('"', "\\\""))
            }
        }
    }
    if !variables.is_empty() {
        text += &format!(
            "      template {{\n        destination = \"secrets/variables\"\n        env         = true\n        data        = \
             \"{variables}\"\n      }}\n\n"
        );
    }
    text
}

fn template(destination: &str, data: &str, more: &str) -> String {
    format!(
        "      template {{\n        destination = \"{destination}\"\n        perms       = \"0400\"\n        data        = \
         {}{more}\n      }}\n\n",
        quoted(data)
    )
}

fn volume(site: &Site, wish: &Wish, class: &str) -> String {
    let fs = site.classes.iter().find(|it| it.name.as_str() == class).map_or("ext4", |class| class.fs.name());
    let mut text = String::from("# `nomad volume create volume.hcl` makes it.\n");
    if site.form == Form::NodeBound {
        text += "# It lives on the client that makes it. `nomad volume delete` asks any client, so let `kato volume rm` on its own\n\
                 # one delete it, and `nomad volume deregister` after that.\n";
    }
    format!(
        "{text}id           = \"db\"\nname         = \"db\"\ntype         = \"csi\"\nplugin_id    = {}\ncapacity_min = \
         \"10GiB\"\ncapacity_max = \"10GiB\"\n\ncapability {{\n  access_mode     = \"single-node-writer\"\n  attachment_mode = \
         \"file-system\"\n}}\n\nmount_options {{\n  fs_type = \"{fs}\"\n}}\n\nparameters {{\n  class = {}\n}}\n",
        quoted(&wish.name),
        quoted(class),
    )
}

fn needs(site: &Site, jobs: &[String]) -> Vec<String> {
    let mut words = String::from(" seal=\"$SEAL\"");
    for reference in site.references() {
        words += &match reference {
            Reference::File { key, path } => format!(" {key}=@{}", path.display()),
            Reference::Variable(name) => format!(" {name}=\"${name}\""),
        };
    }
    let mut needs = vec![
        "Clients whose docker driver has allow_privileged = true and volumes { enabled = true }.".to_owned(),
        "The key that seals what travels with a volume, made once and kept: SEAL=\"$(openssl rand -hex 32)\""
            .to_owned(),
    ];
    needs
        .extend(jobs.iter().map(|job| format!("What {job} is given: nomad var put nomad/jobs/{job}{words}")));
    needs.extend(site.notes.iter().map(|note| format!("Note that {note}.")));
    needs
}

/// A text in quotes, as HCL reads it: what would be filled in is told apart from what is meant so.
fn quoted(text: &str) -> String {
    let escaped = serde_json::Value::from(text).to_string();
    escaped.replace("${", "$${").replace("%{", "%%{")
}

/// Lines for a heredoc. One without a line break at its end would swallow the end mark.
fn heredoc(text: &str) -> String {
    let text = text.replace("${", "$${").replace("%{", "%%{");
    if text.is_empty() || text.ends_with('\n') { text } else { text + "\n" }
}
