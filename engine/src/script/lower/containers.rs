//! Images and containers.

use std::path::PathBuf;

use crate::host::{Mount, RestartPolicy};
use crate::model::Diagnostic;
use crate::resource::{ContainerSpec, ImageDirectorySpec, ImageSpec, Spec};
use crate::script::lower::options::Options;
use crate::script::lower::system::has_program;
use crate::script::recorder::Call;
use crate::script::variants::ContainerWord;

pub(super) fn lower(
    word: ContainerWord,
    call: &Call,
    options: &Options<'_>,
    findings: &mut Vec<Diagnostic>,
) -> Option<Spec> {
    match word {
        ContainerWord::Image => {
            let Some(archive) = options.text("archive") else {
                findings.push(
                    Diagnostic::new(
                        "P0311",
                        call.span.clone(),
                        "an image needs an archive to come from",
                    )
                    .help("add .archive(`${role.payload}/images/….tar`)"),
                );
                return None;
            };
            Some(Spec::Image(ImageSpec {
                reference: options.text_argument(0)?,
                archive: archive.into(),
                checksums: None,
            }))
        }
        ContainerWord::ImageDirectory => Some(Spec::ImageDirectory(ImageDirectorySpec {
            path: options.text_argument(0)?.into(),
            except: options.texts("except").unwrap_or_default(),
        })),
        ContainerWord::Container => container(call, options, findings),
    }
}

fn container(call: &Call, options: &Options<'_>, findings: &mut Vec<Diagnostic>) -> Option<Spec> {
    let Some(image) = options.text("image") else {
        findings.push(
            Diagnostic::new("P0312", call.span.clone(), "a container needs an image")
                .help("add .image(…)"),
        );
        return None;
    };
    let restart = match options.text("restart").as_deref() {
        None | Some("always") => RestartPolicy::Always,
        Some("unless-stopped") => RestartPolicy::UnlessStopped,
        Some("no") => RestartPolicy::No,
        Some(other) => {
            findings.push(
                Diagnostic::new(
                    "P0313",
                    options.span("restart"),
                    format!("`{other}` is not a restart policy"),
                )
                .help("it is always, unless-stopped or no"),
            );
            return None;
        }
    };
    let mut mounts = Vec::new();
    for (name, read_only) in [("mount", false), ("mount_read_only", true)] {
        for pair in options.repeated(name) {
            let [source, target] = pair.as_slice() else {
                continue;
            };
            mounts.push(Mount {
                source: PathBuf::from(source),
                target: PathBuf::from(target),
                read_only,
                propagated: false,
            });
        }
    }
    let env = options.map("env").unwrap_or_default();
    if let Some((name, _)) = env.iter().find(|(_, value)| value.is_secret()) {
        let message = format!(
            "variable `{name}` cannot hold a secret: the container runtime shows the environment of a container, and nodelet records it"
        );
        findings.push(Diagnostic::new("P0347", options.span("env"), message).help(
            "write the secret into a file with `template` or `env_file`, mount the directory of the file with .mount_read_only(…), and let the program read the file",
        ));
        return None;
    }
    let command = options.texts("command");
    if let Some(argv) = &command {
        has_program(argv, options.span("command"), findings)?;
    }
    Some(Spec::Container(ContainerSpec {
        name: options.text_argument(0)?,
        image,
        command: command.unwrap_or_default(),
        env,
        env_files: options.step_paths("env_from"),
        mounts,
        host_network: options.has("host_network"),
        privileged: options.has("privileged"),
        user: options.text("user").unwrap_or_default(),
        restart,
        inputs: options.restart_inputs(),
    }))
}
