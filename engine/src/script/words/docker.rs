//! Words for images and containers.

use super::shared::words;

words! {
    IMAGE = Resource(Containers::Image) image(reference: Text) {
        doc: "A container image on the host. Nothing is pulled.";
        example: r#"image("example:1").archive("/opt/pf9/roles/pf9-kube/current/payload/images/example.tar");"#;
        rollback: "Removed if it was loaded.";
        archive(path: Path) => "Archive in the role's payload, as `docker save` writes it.";
    }

    CONTAINER = Resource(Containers::Container) container(name: Text) {
        doc: "A container that runs with exactly this configuration.";
        example: r#"container("example").image("example:1").host_network().mount_read_only("/etc/pf9", "/etc/pf9");"#;
        rollback: "Removed, and the one it replaced is made again.";
        image(reference: Text) => "The image to run.";
        command(argv: Texts as Command) => "Command and arguments.";
        env(values: Map) =>
            "Environment variables by name. They cannot hold a secret, because the container runtime shows them.";
        #repeatable env_from(step: Steps) =>
            "A file step of `KEY=value` lines to add to the environment. The file cannot hold a secret.";
        #repeatable mount(source: Path, target: Path) => "A directory of the host, writable in it.";
        #repeatable mount_read_only(source: Path, target: Path) =>
            "A directory of the host, read-only in it.";
        host_network() => "Shares the host's network.";
        privileged() => "All capabilities and devices.";
        user(user: Text) => "User, `uid[:gid]`.";
        restart(policy: Text) => "`always` (the default), `unless-stopped` or `no`.";
        #repeatable restart_on(steps: Steps) =>
            "Steps of this phase whose content it reads at its start: a change makes a new container.";
        reads(paths: Paths) =>
            "Files of other phases that it reads at its start: a change makes a new container.";
    }

    IMAGE_DIRECTORY = Resource(Containers::ImageDirectory) image_directory(path: Path) {
        doc: "Image archives (`docker save`) that an operator has put into a directory. Each is compared with its line in `checksum/sha256sums.txt` there, and loaded. The directory may be missing.";
        example: r#"image_directory("/var/opt/pf9/images");"#;
        rollback: "Its images are removed, or are as they were before.";
        except(references: Texts) =>
            "References of images that come from elsewhere. An archive that has another image with one of these references is reported and not loaded.";
    }
}
