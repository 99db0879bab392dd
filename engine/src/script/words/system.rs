//! Words for units, packages, commands and timers.

use super::shared::words;

words! {
    SERVICE = Resource(System::Service) service(unit: Text as UnitName) {
        doc: "A unit of systemd. `.service` is added to a name without a suffix.";
        example: r#"service("example").started().enabled();"#;
        rollback: "Stopped if it was started, started if it was stopped; whether it starts at boot is set back.";
        started() => "It runs.";
        stopped() => "It does not run.";
        enabled() => "It starts at boot.";
        disabled() => "It does not start at boot.";
        runs(programs: Paths) =>
            "Programs of the role's package that it runs: if `role.yaml` has `checksums`, each is compared with its checksum before a start.";
        #repeatable restart_on(steps: Steps) =>
            "Steps of this phase whose content it reads at its start: a change restarts it.";
        reads(paths: Paths) =>
            "Files of other phases that it reads at its start: a change restarts it.";
        #repeatable reload_on(steps: Steps) => "Steps whose content it reads again on reload.";
    }

    PACKAGES = Resource(System::Packages) packages(names: Texts) {
        doc: "Packages of the distribution, installed from the role's payload. For each of them, `payload/debs/NAME.list` names the `.deb` files of the package and of all that it needs, one on a line; the files are beside it. If one of the packages is not installed, nodelet installs the files of its list together, except those of packages that are installed already. So a package that is installed already is accepted in any version, and never upgraded.";
        example: r#"packages(["conntrack"]);"#;
        rollback: "Those that were installed are purged.";
    }

    COMMAND = Resource(System::Command) command(argv: Texts as Command) {
        doc: "The escape hatch: a command, without a shell. A step of an apply needs `.creates` or `.unless`, because a second apply must change nothing. In `on_stop` and `on_rollback` the command may be without them; then it runs each time.";
        example: r#"command(["touch", "/run/example"]).creates("/run/example");"#;
        rollback: "Nothing by itself: add steps in `on_rollback`.";
        creates(path: Path) => "It is done when this path exists.";
        unless(argv: Texts as Command) => "It is done when this command ends with 0.";
    }

    CGROUP = Resource(System::Cgroup) cgroup(name: Text) {
        doc: "A tree of control groups that another program makes, in all hierarchies. It is removed only when it is empty, and no process is killed; only `.absent()` makes sense.";
        example: r#"on_clean(|| { cgroup("kubepods").absent(); });"#;
        rollback: "Nothing.";
    }

    GROUP = Resource(System::Group) group(name: Text) {
        doc: "A group of accounts that a package creates and does not remove; only `.absent()` makes sense.";
        example: r#"on_clean(|| { group("docker").absent(); });"#;
        rollback: "Nothing.";
    }

    TIMER = Resource(System::Timer) timer(name: Text) {
        doc: "Something that nodeletd runs on a schedule, with `.run` or `.command`, as root and with limits of CPU time and memory. It runs only while nodeletd holds the host at this role: nodeletd has the role `pf9-kube` unless it is started with `--role ROLE`. `nodelet timer status` shows each timer, its next run, and why its last run failed. The first run begins at once. However many runs were missed, nodeletd makes up for them with one run. A run waits while the host or the phase is repaired, and is ended when the host has to be changed; it then begins again later.";
        example: r#"timer("example").schedule("0 3 * * *").run("etcd-backup");"#;
        rollback: "Removed, or as it was before.";
        schedule(expression: Text) =>
            "When it runs: a cron expression of five fields, in the host's time zone; 0 and 7 are Sunday.";
        run(what: Text) => "The command of nodelet that runs then: `etcd-backup`.";
        command(argv: Texts as Command) =>
            "The program of the role that runs then, with its arguments and without a shell: a path below `role.payload`. If `role.yaml` has `checksums`, it is verified by its checksum before each run. `.timeout` bounds one run: 10m by default, 30m at most.";
    }
}
