# Shell functions for the scripts of faults. The caller sets ADDRESS: the host's own address.

# A worker has no administrator's kubeconfig. Its kubelet may read nodes.
is_worker() { grep -qx 'ROLE: "worker"' /etc/pf9/nodelet/config.yaml 2> /dev/null; }
own_kubeconfig() {
    if is_worker; then echo /etc/pf9/kube.d/kubeconfigs/kubelet.yaml; else echo /etc/pf9/kube.d/kubeconfigs/local-admin.yaml; fi
}
kubectl() { command kubectl --request-timeout=3s --kubeconfig "$(own_kubeconfig)" "$@"; }

# Prints the status of this host's node and the time of its kubelet's last report. Prints nothing if the node is cordoned.
own_node() {
    kubectl get node --output jsonpath='{range .items[*]}{.status.addresses[?(@.type=="InternalIP")].address}/{.spec.unschedulable}/{.status.conditions[?(@.type=="Ready")].status}/{.status.conditions[?(@.type=="Ready")].lastHeartbeatTime}{"\n"}{end}' |
        awk -F/ -v own="$ADDRESS" '$1 == own && $2 != "true" { print $3, $4 }'
}
# The name of this host's node.
own_name() {
    kubectl get node --output jsonpath='{range .items[*]}{.status.addresses[?(@.type=="InternalIP")].address}/{.metadata.name}{"\n"}{end}' |
        awk -F/ -v own="$ADDRESS" '$1 == own { print $2 }'
}
# Succeeds if this host's node has the label of its role.
has_role_label() {
    if is_worker; then role=worker; else role=master; fi
    kubectl get node --selector "node-role.kubernetes.io/$role" --output name | grep -qx "node/$(own_name)"
}
# The name of this host's own pod on its bridge.
bridged() { echo "bridged-${ADDRESS//./-}"; }
node_is_ready() { [[ $(own_node) == 'True '* ]]; }
# After a boot the API server still has the last report of the kubelet before it. The time of a report has whole seconds.
node_is_ready_since_boot() {
    booted=$(systemctl show --timestamp=us+utc --property=UserspaceTimestamp --value) && said=$(own_node) &&
        [[ -n $booted && $said == 'True '?* ]] && [ "$(date --date "${said#True }" +%s)" -gt "$(date --date "$booted" +%s)" ]
}

etcd_is_healthy() { (cd /etc/pf9/kube.d/certs/etcdctl/etcd && curl -sf --max-time 2 --cacert ca.crt --cert request.crt --key request.key https://127.0.0.1:4001/health | grep -q '"health":"true"'); }

# The container of the role that every host of its kind has, and whether it works.
own_container() { if is_worker; then echo proxy; else echo etcd; fi; }
own_container_works() {
    if is_worker; then curl -sf --max-time 2 http://127.0.0.1:10256/healthz > /dev/null; else etcd_is_healthy; fi
}

# A master has its own API server. A worker asks the one that its kubelet uses.
api() {
    if is_worker; then sed -n 's/^ *server: *//p' "$(own_kubeconfig)" | tr -d \"; else echo https://127.0.0.1:443; fi
}
# Asks anonymously and with the smallest client, because it is called ten times a second and its answer is timed.
api_is_ready_at() { curl -sf --cacert /etc/pf9/kube.d/certs/kubelet/apiserver/ca.crt --max-time 3 "$1/readyz" | grep -qx ok; }
api_is_ready() { api_is_ready_at "$(api)"; }

# Succeeds if this host holds the virtual IP, or if another master holds it and answers there. A master that comes back does not take it.
vip_is_held() {
    ip -o address show dev eth0 | grep -w "$VIP" > /dev/null ||
        { ! ip -o address | grep -w "$VIP" > /dev/null && api_is_ready_at "https://$VIP:443"; }
}
