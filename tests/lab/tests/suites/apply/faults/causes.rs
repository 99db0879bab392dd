//! The causes, in the order of phases.

/// A way in which a phase fails.
pub(crate) struct Cause {
    pub(crate) phase: &'static str,
    pub(crate) about: &'static str,
    /// Shell on the host that causes the failure.
    pub(crate) breaks: &'static str,
    /// A port that another program takes.
    pub(crate) port: Option<u16>,
    /// Settings that cause the failure.
    pub(crate) settings: &'static [(&'static str, &'static str)],
    /// A sed expression that shortens the timeouts in the phase's script, so that the suite does not wait for minutes.
    pub(crate) hurry: &'static str,
    /// What the message must say.
    pub(crate) says: &'static [&'static str],
    /// Shell on the host that removes the cause.
    pub(crate) fix: &'static str,
}

/// The defaults of the other causes.
const NONE: Cause = Cause {
    phase: "",
    about: "",
    breaks: "",
    port: None,
    settings: &[],
    hurry: "",
    says: &[],
    fix: "",
};

/// Shortens every timeout of a check and the tries of a step, but not the timeout of the phase.
const HURRY: &str = r#"/^phase\(/,/;/! { s/\.timeout\("(60s|2m|3m)"\)/.timeout("8s")/; s/\.retry\((240|600),/.retry(8,/; s/\.retry\(2400,/.retry(40,/ }"#;

pub(crate) const CAUSES: &[Cause] = &[
    Cause {
        phase: "node-config",
        about: "a directory is in the place of a link",
        breaks: "mkdir -p /usr/local/bin/kubectl/full",
        says: &["/usr/local/bin/kubectl a link: a directory is there", "move it away"],
        fix: "rm -r /usr/local/bin/kubectl",
        ..NONE
    },
    Cause {
        phase: "certs",
        about: "the disk is full",
        breaks: "mkdir -p /etc/pf9/kube.d/certs; mount -t tmpfs -o size=40k none /etc/pf9/kube.d/certs",
        says: &["No space left on device", "make room"],
        fix: "umount /etc/pf9/kube.d/certs; rmdir /etc/pf9/kube.d/certs",
        ..NONE
    },
    Cause {
        phase: "kubeconfigs",
        about: "the file system is read-only",
        breaks: "mkdir /etc/pf9/kube.d/kubeconfigs; cd /etc/pf9/kube.d; mount --bind kubeconfigs kubeconfigs; mount -o remount,bind,ro kubeconfigs",
        says: &["Read-only file system", "for writing"],
        fix: "umount /etc/pf9/kube.d/kubeconfigs; rmdir /etc/pf9/kube.d/kubeconfigs",
        ..NONE
    },
    Cause {
        phase: "configure-docker",
        about: "the payload lacks docker's packages",
        breaks: "mount -t tmpfs -o mode=755 none /opt/pf9/roles/pf9-kube/1.20.2/payload/debs",
        says: &["docker.io.list", "install the role's package again"],
        fix: "umount /opt/pf9/roles/pf9-kube/1.20.2/payload/debs",
        ..NONE
    },
    Cause {
        phase: "configure-docker",
        about: "one of docker's packages is broken",
        breaks: "cd /opt/pf9/roles/pf9-kube/1.20.2/payload/debs; echo rubbish > /tmp/rubbish; mount --bind /tmp/rubbish $(ls docker.io_*.deb)",
        says: &["docker.io_", "it is damaged", "install the role's package again"],
        fix: "cd /opt/pf9/roles/pf9-kube/1.20.2/payload/debs; umount $(ls docker.io_*.deb)",
        ..NONE
    },
    Cause {
        phase: "docker",
        about: "docker refuses daemon.json, because a flag sets the same option",
        breaks: "systemctl stop docker.socket docker
            mkdir -p /etc/systemd/system/docker.service.d
            printf '[Service]\\nExecStart=\\nExecStart=/usr/sbin/dockerd -H fd:// --log-driver=journald\\n' > /etc/systemd/system/docker.service.d/own.conf
            systemctl daemon-reload",
        says: &["log-driver", "docker.service"],
        fix: "rm /etc/systemd/system/docker.service.d/own.conf; systemctl daemon-reload",
        ..NONE
    },
    Cause {
        phase: "etcd-image",
        about: "an image is named that the payload does not have",
        settings: &[("ETCD_IMAGE", "k8s.gcr.io/etcd:9.9.9-9")],
        says: &["k8s.gcr.io/etcd:9.9.9-9", "holds other images (k8s.gcr.io/etcd:3.4.23-0)", "name an image that the archive holds"],
        ..NONE
    },
    Cause {
        phase: "images",
        about: "an image is named that the payload does not have",
        settings: &[("KUBE_APISERVER_IMAGE", "k8s.gcr.io/kube-apiserver:v9.9.9")],
        says: &["k8s.gcr.io/kube-apiserver:v9.9.9", "holds other images (k8s.gcr.io/kube-apiserver:v1.20.2)", "name an image that the archive holds"],
        ..NONE
    },
    Cause {
        phase: "controller-images",
        about: "an image is named that the payload does not have",
        settings: &[("KUBE_SCHEDULER_IMAGE", "k8s.gcr.io/kube-scheduler:v9.9.9")],
        says: &["k8s.gcr.io/kube-scheduler:v9.9.9", "holds other images (k8s.gcr.io/kube-scheduler:v1.20.2)", "name an image that the archive holds"],
        ..NONE
    },
    Cause {
        phase: "etcd",
        about: "its port is taken",
        port: Some(4001),
        says: &["address already in use", "127.0.0.1:4001", "ss -ltnp"],
        fix: "systemctl stop squatter-4001",
        ..NONE
    },
    Cause {
        phase: "etcd",
        about: "its disk is full",
        // The id of the data is copied, because without it nothing would start there.
        breaks: "cd /var/opt/pf9/kube/etcd/data/member; cp -a nodelet-data-id /tmp/; cd /
            mount -t tmpfs -o size=1m,mode=700 none /var/opt/pf9/kube/etcd/data
            install -d -m 0700 /var/opt/pf9/kube/etcd/data/member; mv /tmp/nodelet-data-id /var/opt/pf9/kube/etcd/data/member/",
        says: &["no space left on device", "make room"],
        fix: "umount /var/opt/pf9/kube/etcd/data",
        ..NONE
    },
    Cause {
        phase: "etcd",
        about: "its certificate is of another authority",
        breaks: "cd /etc/pf9/kube.d/certs/etcd/client; cp -a request.crt ca.crt /tmp/
            openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=stranger -keyout /dev/null -out ca.crt 2>/dev/null",
        says: &["BadCertificate", "certificate signed by unknown authority", "openssl verify"],
        fix: "cp -a /tmp/ca.crt /etc/pf9/kube.d/certs/etcd/client/ca.crt",
        ..NONE
    },
    Cause {
        phase: "control-plane",
        about: "a file is in the place of the manifests' directory",
        breaks: "touch /etc/pf9/kube.d/manifests",
        says: &["/etc/pf9/kube.d/manifests", "move it away"],
        fix: "rm /etc/pf9/kube.d/manifests",
        ..NONE
    },
    Cause {
        phase: "cni",
        about: "a directory is in the place of the configuration",
        breaks: "mkdir -p /etc/cni/net.d/10-bridge.conflist",
        says: &["/etc/cni/net.d/10-bridge.conflist", "move it away"],
        fix: "rm -r /etc/cni",
        ..NONE
    },
    Cause {
        phase: "pod-network",
        about: "a part of iptables is gone",
        breaks: "mv /usr/sbin/iptables-restore /usr/sbin/iptables-restore.gone",
        says: &["PF9-MASQUERADE", "iptables-restore", "there is no such program"],
        fix: "mv /usr/sbin/iptables-restore.gone /usr/sbin/iptables-restore",
        ..NONE
    },
    Cause {
        phase: "kubelet",
        about: "it is given a flag that it does not know",
        settings: &[("KUBELET_FLAGS", "--no-such-flag=1")],
        says: &["unknown flag: --no-such-flag", "pf9-kubelet.service"],
        ..NONE
    },
    Cause {
        phase: "api-ready",
        about: "the API server has a wrong authority for etcd",
        breaks: "cd /etc/pf9/kube.d/certs/apiserver/etcd; cp -a ca.crt /tmp/ca.crt; cat ../ca.crt > ca.crt
            docker ps --quiet --filter label=io.kubernetes.container.name=kube-apiserver | xargs --no-run-if-empty docker kill > /dev/null
            for n in $(seq 60); do docker ps --all --quiet --filter label=io.kubernetes.container.name=kube-apiserver | xargs --no-run-if-empty --max-args 1 docker logs --tail 300 2>&1 | grep '4001.*signed by unknown authority' > /dev/null && break; sleep 0.5; done",
        hurry: HURRY,
        // It ends after a while, and is started again: it runs or not when the phase fails.
        says: &["container kube-apiserver", "127.0.0.1:4001", "certificate signed by unknown authority", "openssl verify"],
        fix: "cp -a /tmp/ca.crt /etc/pf9/kube.d/certs/apiserver/etcd/ca.crt; systemctl restart pf9-kubelet",
        ..NONE
    },
    Cause {
        phase: "node-role",
        about: "kubelet has not registered the node",
        breaks: "systemctl stop pf9-kubelet; kubectl --kubeconfig /etc/pf9/kube.d/kubeconfigs/local-admin.yaml delete node/master-1 > /dev/null",
        hurry: HURRY,
        says: &["kubelet has not registered it", "journalctl -u pf9-kubelet"],
        fix: "systemctl start pf9-kubelet",
        ..NONE
    },
    Cause {
        phase: "kube-proxy-image",
        about: "an image is named that the payload does not have",
        settings: &[("KUBE_PROXY_IMAGE", "k8s.gcr.io/kube-proxy:v9.9.9")],
        says: &["k8s.gcr.io/kube-proxy:v9.9.9", "holds other images (k8s.gcr.io/kube-proxy:v1.20.2)", "name an image that the archive holds"],
        ..NONE
    },
    Cause {
        phase: "kube-proxy",
        about: "its image is gone",
        breaks: "docker rmi --force k8s.gcr.io/kube-proxy:v1.20.2 > /dev/null",
        says: &["No such image", "k8s.gcr.io/kube-proxy:v1.20.2", "bring the image back"],
        fix: "nodelet apply --only kube-proxy-image > /dev/null",
        ..NONE
    },
    Cause {
        phase: "node-routes",
        about: "the kernel's routes may not be read",
        // A program in the place of `ip` that refuses only this.
        breaks: r#"real=$(readlink -f "$(command -v ip)"); mv "$real" "$real.gone"
            printf '#!/bin/sh\ncase " $* " in *" route "*) echo "RTNETLINK answers: Operation not permitted" >&2; exit 2;; esac\nexec %s "$@"\n' "$real.gone" > "$real"
            chmod 755 "$real""#,
        says: &["node_routes", "RTNETLINK answers: Operation not permitted"],
        fix: "for gone in /usr/bin/ip.gone /usr/sbin/ip.gone /bin/ip.gone; do if [ -e $gone ]; then mv $gone ${gone%.gone}; fi; done",
        ..NONE
    },
    Cause {
        phase: "kubernetes-ready",
        about: "the pods' network has no configuration",
        // Until kubelet reports, the node is as before.
        breaks: r#"rm /etc/cni/net.d/10-bridge.conflist; systemctl restart pf9-kubelet
            for n in $(seq 60); do kubectl --kubeconfig /etc/pf9/kube.d/kubeconfigs/local-admin.yaml get node/master-1 --output jsonpath='{.status.conditions[?(@.type=="Ready")].message}' | grep cni > /dev/null && break; sleep 0.5; done"#,
        hurry: HURRY,
        says: &["is not Ready", "cni"],
        fix: "nodelet apply --only cni > /dev/null; systemctl restart pf9-kubelet",
        ..NONE
    },
    Cause {
        phase: "vrrp-firewall",
        about: "a part of iptables is gone",
        breaks: "mv /usr/sbin/iptables-restore /usr/sbin/iptables-restore.gone",
        says: &["PF9-VRRP", "iptables-restore", "there is no such program"],
        fix: "mv /usr/sbin/iptables-restore.gone /usr/sbin/iptables-restore",
        ..NONE
    },
    Cause {
        phase: "keepalived",
        about: "its unit is masked",
        breaks: "ln -s /dev/null /etc/systemd/system/keepalived.service; systemctl daemon-reload",
        says: &["keepalived.service", "masked", "systemctl unmask"],
        fix: "rm /etc/systemd/system/keepalived.service; systemctl daemon-reload",
        ..NONE
    },
    Cause {
        phase: "etcd-backup",
        about: "a file is in the place of its directory",
        breaks: "touch /etc/pf9/etcd-backup",
        says: &["/etc/pf9/etcd-backup", "a file is there", "move it away"],
        fix: "rm /etc/pf9/etcd-backup",
        ..NONE
    },
    Cause {
        phase: "user-images",
        about: "an archive is not named in the checksums",
        breaks: "mkdir -p /var/opt/pf9/images/checksum; cd /var/opt/pf9/images; : > checksum/sha256sums.txt; echo junk > app.tar",
        says: &["app.tar: checksum/sha256sums.txt does not name it", "put the archive there again"],
        fix: "rm -r /var/opt/pf9/images",
        ..NONE
    },
];
