//! Generated plans and hosts: any phases with any steps, on hosts where any of it may exist already, in another state.
//!
//! Each piece is about a resource of its own, so that no two steps use the same one; only directories above are shared. The API
//! server is on another host and up. Words for what other programs make are left out: they are only allowed in lanes.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use engine::host::fake::{FakeHost, Program};
use engine::host::{
    Attributes, ClusterNode, CommandOutput, ContainerConfig, Containers as _, RestartPolicy, Taint,
};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use crate::{Bringup, Scripts, block_on};

/// The kubeconfig that phases use.
const ADMIN: &str = "/etc/pf9/kube.d/kubeconfigs/local-admin.yaml";
/// Contents of files, environments, units.
const CONTENTS: [&str; 3] = ["one", "two", "three"];
/// Modes of files and directories.
const MODES: [&str; 3] = ["0600", "0644", "0755"];

/// A role and a host.
#[derive(Debug, Clone)]
pub struct Generated {
    /// Of each phase, the phases that it requires, and its pieces.
    phases: Vec<(Vec<usize>, Vec<Piece>)>,
}

/// Steps about one resource, and its state before the role.
#[derive(Debug, Clone)]
struct Piece {
    steps: String,
    before: Vec<Before>,
}

/// Something that is on the host before the role comes.
#[derive(Debug, Clone)]
enum Before {
    File(&'static str, &'static str, u32),
    Directory(&'static str, u32),
    Link(&'static str, &'static str),
    Sysctl(&'static str, &'static str),
    Module(&'static str),
    Package(&'static str),
    /// A map in the cluster, with this content.
    Map(&'static str),
    Node(Box<ClusterNode>),
    Image(&'static str),
    Container {
        image: &'static str,
        running: bool,
    },
    Unit {
        text: String,
        place: &'static str,
        active: bool,
        enabled: bool,
    },
}

impl Generated {
    /// The bring-up of the scripts on the host, and the host.
    #[must_use]
    pub fn bring_up(&self) -> (Bringup, FakeHost) {
        let bringup = Bringup::of_scripts(&self.scripts());
        let host = bringup
            .bare_host()
            .with_file(ADMIN, "fake")
            .with_kubernetes(|rules| rules.remote_api = true);
        host.with_world_mut(|world| {
            world.file_with_mode("/usr/bin/mark", "fake program\n", 0o755);
            let mark = Program::new(|_, world| {
                world.file("/run/mark", "marked");
                CommandOutput {
                    status: 0,
                    stdout: String::new(),
                    stderr: String::new(),
                }
            });
            world.program_does("mark", mark);
        });
        let pieces = self.phases.iter().flat_map(|(_, pieces)| pieces);
        for before in pieces.flat_map(|piece| &piece.before) {
            before.put(&host);
        }
        // Times of files and starts have a coarse resolution: without a pause, a run could not tell older files from those that it
        // has written.
        host.with_world_mut(|world| world.advance(Duration::from_secs(60)));
        host.clear_journal();
        (bringup, host)
    }

    fn scripts(&self) -> Scripts {
        let unit = "[Unit]\nDescription={{ about }}\n[Service]\nExecStart=/usr/bin/true\n";
        let mut scripts = Scripts::default()
            .template("app.service.tmpl", unit)
            .template("greeting.tmpl", "hello {{ name }}\n")
            .template("map.yaml.tmpl", &map("{{ name }}").to_string());
        for (place, (requires, pieces)) in self.phases.iter().enumerate() {
            let mut script = format!("phase(\"p{place}\").about(\"A phase.\").nodes([\"master\"])");
            if !requires.is_empty() {
                let names: Vec<String> = requires.iter().map(|p| format!("\"p{p}\"")).collect();
                let _ = write!(script, ".requires([{}])", names.join(", "));
            }
            script.push_str(";\n");
            for piece in pieces {
                script.push_str(&piece.steps);
            }
            scripts = scripts.phase(&format!("p{place}"), &script);
        }
        scripts
    }
}

impl Before {
    fn put(&self, host: &FakeHost) {
        match self {
            Self::File(path, content, mode) => {
                host.with_world_mut(|world| world.file_with_mode(path, content, *mode));
            }
            Self::Directory(path, mode) => block_on(async {
                use engine::host::Files as _;
                host.with_world_mut(|world| world.directory(path));
                let set = host.set_attributes(path.as_ref(), Attributes::root(*mode));
                set.await.expect("the directory is there");
            }),
            Self::Link(path, target) => block_on(async {
                use engine::host::Files as _;
                let parent = std::path::Path::new(path).parent().expect("a parent");
                host.with_world_mut(|world| world.directory(parent));
                let linked = host.symlink(path.as_ref(), target).await;
                linked.expect("nothing else is there");
            }),
            Self::Sysctl(key, value) => host.with_world_mut(|world| world.set_sysctl(key, value)),
            Self::Module(name) => host.with_world_mut(|world| world.load_module(name)),
            Self::Package(name) => host.with_world_mut(|world| world.package(name, "1")),
            Self::Map(name) => host.with_world_mut(|world| world.object(map(name))),
            Self::Node(node) => host.with_world_mut(|world| world.node("cp-1", (**node).clone())),
            Self::Image(reference) => host.with_world_mut(|world| world.image(reference)),
            Self::Container { image, running } => block_on(async {
                host.with_world_mut(|world| world.image(image));
                let made = host.create_container(&container(image)).await;
                made.expect("its image is there");
                if *running {
                    host.start_container("app").await.expect("it is there");
                }
            }),
            Self::Unit {
                text,
                place,
                active,
                enabled,
            } => block_on(async {
                use engine::host::Services as _;
                host.with_world_mut(|world| world.file(format!("{place}/app.service"), text));
                let set = host.set_unit_enabled("app.service", *enabled).await;
                set.expect("the unit is there");
                if *active {
                    host.start_unit("app.service").await.expect("it is there");
                }
            }),
        }
    }
}

/// A container that is neither the role's nor a pod's.
#[must_use]
pub fn foreign_container(name: &str) -> ContainerConfig {
    ContainerConfig::bare(name, "example/foreign:1")
}

/// A container with our label that the ledger does not know. Without the label, a container with our name is refused.
fn container(image: &str) -> ContainerConfig {
    ContainerConfig {
        image: image.to_owned(),
        command: vec!["theirs".to_owned()],
        restart: RestartPolicy::UnlessStopped,
        labels: BTreeMap::from([
            ("app".to_owned(), "theirs".to_owned()),
            ("pf9.io/owner".to_owned(), "nodelet".to_owned()),
        ]),
        ..foreign_container("app")
    }
}

/// Any role on any host: some of the pieces, distributed over one to four phases, each of which may require earlier ones.
pub fn generated() -> impl Strategy<Value = Generated> {
    let pieces = pieces();
    let most = pieces.len();
    (subsequence(pieces, 1..=most), 1..=4_usize).prop_flat_map(|(chosen, phases)| {
        let chosen = chosen.prop_shuffle();
        let dealt = proptest::collection::vec(0..phases, most_pieces());
        let requires: Vec<_> = (0..phases)
            .map(|place| subsequence((0..place).collect::<Vec<_>>(), 0..=place))
            .collect();
        (chosen, dealt, requires).prop_map(move |(chosen, dealt, requires)| {
            let mut phases: Vec<(Vec<usize>, Vec<Piece>)> =
                requires.into_iter().map(|r| (r, Vec::new())).collect();
            for (piece, place) in chosen.into_iter().zip(dealt) {
                phases[place].1.push(piece);
            }
            Generated { phases }
        })
    })
}

fn most_pieces() -> usize {
    pieces().len()
}

/// One strategy for each resource that a plan may be about.
fn pieces() -> Vec<BoxedStrategy<Piece>> {
    vec![
        file("/opt/app/a"),
        file("/opt/app/deep/b"),
        file("/etc/app.conf"),
        rendered(),
        env_file(),
        directory("/opt/app"),
        directory("/var/lib/app/data"),
        symlink(),
        unit(),
        sysctl(),
        kernel_module(),
        packages(),
        image_and_container(),
        keys(),
        service_account_key(),
        timer(),
        manifest(),
        node(),
        command(),
    ]
}

fn mode(text: &str) -> u32 {
    u32::from_str_radix(text, 8).expect("the table has modes")
}

fn file(path: &'static str) -> BoxedStrategy<Piece> {
    let flags = [
        "",
        "",
        ".create_only()",
        ".sensitive()",
        ".keep()",
        ".absent()",
    ];
    let before = prop_oneof![
        Just(None),
        (select(&CONTENTS[..]), select(&MODES[..])).prop_map(move |(c, m)| Some(Before::File(
            path,
            c,
            mode(m)
        ))),
        Just(Some(Before::Link(path, "/etc/hostname"))),
    ];
    (
        select(&CONTENTS[..]),
        select(&MODES[..]),
        select(flags.to_vec()),
        before,
    )
        .prop_map(move |(content, mode, flag, before)| {
            let made = if flag == ".absent()" {
                String::new()
            } else {
                format!(".content(\"{content}\").mode(\"{mode}\")")
            };
            Piece {
                steps: format!("file(\"{path}\"){made}{flag};\n"),
                before: before.into_iter().collect(),
            }
        })
        .boxed()
}

fn rendered() -> BoxedStrategy<Piece> {
    const PATH: &str = "/etc/app.d/greeting";
    let before = prop_oneof![
        Just(None),
        Just(Some(Before::File(PATH, "hello one\n", 0o644)))
    ];
    (select(&CONTENTS[..]), before)
        .prop_map(|(name, before)| Piece {
            steps: format!(
                "template(\"greeting.tmpl\", \"{PATH}\").vars(#{{ name: \"{name}\" }});\n"
            ),
            before: before.into_iter().collect(),
        })
        .boxed()
}

fn env_file() -> BoxedStrategy<Piece> {
    const PATH: &str = "/etc/app.d/app.env";
    let before = prop_oneof![
        Just(None),
        Just(Some(Before::File(PATH, "export A=\"one\"\n", 0o640))),
        Just(Some(Before::Link(PATH, "/etc/hostname"))),
    ];
    (select(&CONTENTS[..]), select(&MODES[..]), before)
        .prop_map(|(value, mode, before)| Piece {
            steps: format!(
                "env_file(\"{PATH}\").values(#{{ A: \"{value}\" }}).mode(\"{mode}\");\n"
            ),
            before: before.into_iter().collect(),
        })
        .boxed()
}

fn directory(path: &'static str) -> BoxedStrategy<Piece> {
    let flags = if path == "/opt/app" {
        vec![""]
    } else {
        vec!["", ".exclusive()", ".keep()"]
    };
    let before = prop_oneof![
        Just(None),
        select(&MODES[..]).prop_map(move |m| Some(Before::Directory(path, mode(m)))),
    ];
    (select(&MODES[..]), select(flags), before)
        .prop_map(move |(mode, flag, before)| Piece {
            steps: format!("directory(\"{path}\").mode(\"{mode}\"){flag};\n"),
            before: before.into_iter().collect(),
        })
        .boxed()
}

fn symlink() -> BoxedStrategy<Piece> {
    const PATH: &str = "/opt/links/current";
    let targets = ["/opt/app", "/etc/app.conf"];
    let before = prop_oneof![
        Just(None),
        select(targets.to_vec()).prop_map(|target| Some(Before::Link(PATH, target))),
    ];
    (
        select(targets.to_vec()),
        select(vec!["", ".absent()"]),
        before,
    )
        .prop_map(|(target, flag, before)| Piece {
            steps: format!("symlink(\"{PATH}\", \"{target}\"){flag};\n"),
            before: before.into_iter().collect(),
        })
        .boxed()
}

fn unit() -> BoxedStrategy<Piece> {
    let text =
        |about: &str| format!("[Unit]\nDescription={about}\n[Service]\nExecStart=/usr/bin/true\n");
    let places = ["/etc/systemd/system", "/lib/systemd/system"];
    let before = (
        any::<bool>(),
        select(&CONTENTS[..]),
        select(places.to_vec()),
        any::<[bool; 2]>(),
    )
        .prop_map(move |(there, about, place, [active, enabled])| {
            there.then(|| Before::Unit {
                text: text(about),
                place,
                active,
                enabled,
            })
        });
    let state = select(vec![".started()", ".stopped()"]);
    let boot = select(vec!["", ".enabled()", ".disabled()"]);
    (select(&CONTENTS[..]), state, boot, any::<bool>(), before)
        .prop_map(|(about, state, boot, restarts, before)| {
            let mut steps = format!(
                "let its = unit(\"app.service\", \"app.service.tmpl\").vars(#{{ about: \"{about}\" }});\n\
                 let conf = file(\"/etc/app.d/service.conf\").content(\"{about}\");\n\
                 service(\"app\"){state}{boot}"
            );
            // A unit that does not run reads nothing.
            if restarts && state == ".started()" {
                steps += ".restart_on([its, conf])";
            }
            steps += ";\n";
            Piece { steps, before: before.into_iter().collect() }
        })
        .boxed()
}

fn sysctl() -> BoxedStrategy<Piece> {
    const KEY: &str = "net.ipv4.ip_forward";
    const PATH: &str = "/etc/sysctl.d/90-pf9-net.ipv4.ip_forward.conf";
    (
        select(vec!["0", "1"]),
        select(vec!["0", "1"]),
        any::<bool>(),
    )
        .prop_map(|(value, is, persisted)| {
            let mut before = vec![Before::Sysctl(KEY, is)];
            if persisted {
                before.push(Before::File(PATH, "net.ipv4.ip_forward = 1\n", 0o600));
            }
            Piece {
                steps: format!("sysctl(\"{KEY}\", \"{value}\");\n"),
                before,
            }
        })
        .boxed()
}

fn kernel_module() -> BoxedStrategy<Piece> {
    any::<bool>()
        .prop_map(|loaded| Piece {
            steps: "kernel_module(\"dummy\");\n".to_owned(),
            before: loaded
                .then_some(Before::Module("dummy"))
                .into_iter()
                .collect(),
        })
        .boxed()
}

fn packages() -> BoxedStrategy<Piece> {
    let there = subsequence(vec!["conntrack", "keepalived"], 0..=2);
    let wanted = subsequence(vec!["conntrack", "keepalived"], 1..=2);
    (there, wanted)
        .prop_map(|(there, wanted)| Piece {
            steps: format!("packages({wanted:?});\n"),
            before: there.into_iter().map(Before::Package).collect(),
        })
        .boxed()
}

fn image_and_container() -> BoxedStrategy<Piece> {
    let before = prop_oneof![
        Just(vec![]),
        Just(vec![Before::Image("app:1")]),
        (select(vec!["app:1", "app:0"]), any::<bool>())
            .prop_map(|(image, running)| vec![Before::Container { image, running }]),
    ];
    let policy = select(vec!["always", "unless-stopped", "no"]);
    (
        select(&CONTENTS[..]),
        policy,
        select(vec!["", ".absent()"]),
        before,
    )
        .prop_map(|(value, policy, flag, before)| {
            let made = if flag == ".absent()" {
                String::new()
            } else {
                format!(
                    ".env(#{{ A: \"{value}\" }}).env_from(env)\
                     .mount_read_only(\"/etc\", \"/host\").restart(\"{policy}\").restart_on(env)"
                )
            };
            Piece {
                steps: format!(
                    "image(\"app:1\").archive(`${{role.payload}}/images/app.tar`);\n\
                     let env = file(\"/etc/app.d/container.env\").content(\"B={value}\\n\");\n\
                     container(\"app\").image(\"app:1\"){made}{flag};\n"
                ),
                before,
            }
        })
        .boxed()
}

fn keys() -> BoxedStrategy<Piece> {
    select(vec!["", ".keep()"])
        .prop_map(|flag| Piece {
            steps: format!(
                "certificate_authority(\"cluster\"){flag};\n\
                 certificate(\"app/client\").authority(\"cluster\").common_name(\"app\").usage(\"client\");\n\
                 kubeconfig(\"app\").server(\"https://localhost:443\").certificate(\"app/client\").user(\"app\");\n"
            ),
            before: Vec::new(),
        })
        .boxed()
}

fn service_account_key() -> BoxedStrategy<Piece> {
    select(vec!["", ".keep()"])
        .prop_map(|flag| Piece {
            steps: format!("service_account_key(){flag};\n"),
            before: Vec::new(),
        })
        .boxed()
}

fn timer() -> BoxedStrategy<Piece> {
    (
        select(vec!["0 3 * * *", "*/5 * * * *"]),
        select(vec!["", ".absent()"]),
    )
        .prop_map(|(schedule, flag)| {
            let made = if flag == ".absent()" {
                String::new()
            } else {
                format!(".schedule(\"{schedule}\").run(\"etcd-backup\")")
            };
            Piece {
                steps: format!("timer(\"backup\"){made}{flag};\n"),
                before: Vec::new(),
            }
        })
        .boxed()
}

/// An object of the manifest `map.yaml.tmpl`.
fn map(name: &str) -> serde_json::Value {
    serde_json::json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": { "name": "app", "namespace": "default" },
        "data": { "name": name },
    })
}

fn manifest() -> BoxedStrategy<Piece> {
    let before = prop_oneof![
        Just(None),
        select(&CONTENTS[..]).prop_map(|name| Some(Before::Map(name))),
    ];
    (select(&CONTENTS[..]), select(vec!["", ".absent()"]), before)
        .prop_map(|(name, flag, before)| Piece {
            steps: format!("manifest(\"map.yaml.tmpl\").vars(#{{ name: \"{name}\" }}){flag};\n"),
            before: before.into_iter().collect(),
        })
        .boxed()
}

/// A node that is registered already: kubelet registers nodes, and a node's subnet cannot be taken back.
fn node() -> BoxedStrategy<Piece> {
    let label = select(vec!["", ".label(\"tier\", \"one\")"]);
    let taint = select(vec![
        "",
        ".taint(\"app\", \"\", \"NoSchedule\")",
        ".untainted(\"app\")",
    ]);
    let labelled = prop_oneof![Just(None), select(&CONTENTS[..]).prop_map(Some)];
    (
        label,
        taint,
        select(vec!["", ".schedulable()"]),
        labelled,
        any::<[bool; 3]>(),
    )
        .prop_map(
            |(label, taint, schedulable, labelled, [tainted, cordoned, on_purpose])| {
                let map = |key: &str, value: &str| (key.to_owned(), value.to_owned());
                let its = Taint {
                    key: "app".to_owned(),
                    value: String::new(),
                    effect: "NoExecute".to_owned(),
                };
                let on_purpose = on_purpose.then(|| map("UserNodeCordon", "true"));
                let before = ClusterNode {
                    labels: labelled
                        .map(|value| map("tier", value))
                        .into_iter()
                        .collect(),
                    annotations: on_purpose.into_iter().collect(),
                    taints: tainted.then_some(its).into_iter().collect(),
                    unschedulable: cordoned,
                    pod_cidr: Some("10.20.0.0/24".to_owned()),
                    ..ClusterNode::default()
                };
                Piece {
                    steps: format!("node(host.name){label}{taint}{schedulable};\n"),
                    before: vec![Before::Node(Box::new(before))],
                }
            },
        )
        .boxed()
}

fn command() -> BoxedStrategy<Piece> {
    any::<bool>()
        .prop_map(|marked| Piece {
            steps: "command([\"mark\"]).creates(\"/run/mark\");\n\
                    on_rollback(|| { file(\"/run/mark\").absent(); });\n\
                    on_clean(|| { file(\"/run/mark\").absent(); });\n"
                .to_owned(),
            before: marked
                .then_some(Before::File("/run/mark", "theirs", 0o644))
                .into_iter()
                .collect(),
        })
        .boxed()
}
