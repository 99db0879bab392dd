//! Words for keys, certificates and kubeconfigs.

use super::shared::words;

words! {
    CERTIFICATE_AUTHORITY = Resource(Pki::CertificateAuthority) certificate_authority(name: Text) {
        doc: "A certificate authority with its key under `/etc/pf9/kube.d/ca/<name>`. Never replaced while it can be read.";
        example: r#"certificate_authority("cluster").common_name("example");"#;
        rollback: "Removed if it was created, unless it is to be kept.";
        common_name(name: Text) => "Common name of its subject. Default its name.";
        years(years: Integer(1)) => "How long it is valid. Default 10.";
    }

    SERVICE_ACCOUNT_KEY = Resource(Pki::ServiceAccountKey) service_account_key() {
        doc: "The key that signs service account tokens. Never replaced while it can be read.";
        example: "service_account_key();";
        rollback: "Removed if it was created, unless it is to be kept.";
    }

    CERTIFICATE = Resource(Pki::Certificate) certificate(path: Text) {
        doc: "A key and certificate in `/etc/pf9/kube.d/certs/<path>`, issued again when it differs, does not verify, or is past three fifths of its life.";
        example: r#"certificate("example").authority("cluster").common_name("example").usage("client");"#;
        rollback: "Removed, or written back as it was.";
        authority(name: Text) => "Who signs it.";
        common_name(name: Text) => "Common name of its subject.";
        organizations(names: Texts) =>
            "Organizations of its subject; Kubernetes takes them as groups.";
        usage(usage: Text) => "`server`, `client`, or `peer` for both.";
        names(names: Texts) => "DNS names it is valid for.";
        addresses(addresses: Addresses) => "Addresses it is valid for.";
        valid_for(time: Duration) => "How long it is valid, for example `365d`. Default a year.";
        signed_by_api() =>
            "Sent as a request to the API server, where a master signs it: for a host that has the authority `cluster` without its key. A try waits for the signature, at most 2m, or its `.timeout` less 20s. The masters decide how long it is valid.";
    }

    JOIN_FILE = Resource(Pki::JoinFile) join_file(path: Path) {
        doc: "What a worker takes from its join file (`nodelet pki issue`): the certificate of authority `cluster`, which is recorded, and the kubeconfig `bootstrap` with the token for its first certificates. A host with a valid certificate of its node needs the file no more. With `.master`, what a further master takes from its file (`nodelet pki export`): the records of authorities, service-account key and encryption keys, with their copies, and the list of masters. A host with the key of authority `cluster` needs the file no more. Keys that are there are never replaced.";
        example: r#"join_file("/etc/pf9/nodelet/join.age").node(host.name);"#;
        rollback: "Removed, or written back as it was.";
        node(name: Text) => "Name of this host's node.";
        address(address: Address) => "The address of a worker: a file in which another node has it is refused.";
        master(address: Address, api: Text) => "The host joins as a master, has this address, and reaches the cluster at this URL.";
        settings(settings: Map) => "Settings that the masters have in common, by name: a file with another value of one is refused.";
        masters_on_link() => "The masters that the file names have to be on a network of this host. Otherwise the file is refused.";
    }

    KUBECONFIG = Resource(Pki::Kubeconfig) kubeconfig(name: Text) {
        doc: "A kubeconfig in `/etc/pf9/kube.d/kubeconfigs/<name>.yaml` with certificate, key and root embedded; a name may be a path.";
        example: r#"kubeconfig("example").server("https://localhost:443").certificate("example").user("example");"#;
        rollback: "Removed, or written back as it was.";
        server(url: Text) => "URL of the API server.";
        certificate(path: Text) => "The client certificate to embed, by its path.";
        user(name: Text) => "Name of the user entry.";
        by_path() =>
            "Name the files of certificate and key instead of embedding them. A client that reads the files again uses a renewed certificate without a restart.";
    }

    ENCRYPTION_KEYS = Resource(Pki::EncryptionKeys) encryption_keys() {
        doc: "The keys with which the API server encrypts Secrets in etcd, in `/etc/pf9/kube.d/encryption/config.yaml`. Never replaced while they can be read; `nodelet certs rotate encryption` replaces one.";
        example: "encryption_keys();";
        rollback: "Removed if they were created, unless they are to be kept.";
    }
}
