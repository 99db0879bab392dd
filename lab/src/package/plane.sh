# Makes this host a management plane: planectl behind HAProxy, with RabbitMQ, a registry, Keystone and nginx. Can be run again.
#
# In: NAME (of the plane). /opt/pf9/plane/planectl and the units are there.
set -eu
umask 077

# Waits until a command succeeds, for a minute.
until_works() {
    tries=0
    until "$@" > /tmp/until_works 2>&1; do
        tries=$((tries + 1))
        if [ $tries -gt 300 ]; then
            echo "not within a minute: $*" >&2
            cat /tmp/until_works >&2
            exit 1
        fi
        sleep 0.2
    done
}

# A secret that is made once.
secret() {
    [ -s "$1" ] || head -c 24 /dev/urandom | base64 -w 0 > "$1"
    chown "$2" "$1"
}

systemctl disable --quiet --now haproxy nginx docker-registry tinyproxy 2> /dev/null || true
id pf9-plane > /dev/null 2>&1 || useradd --system --no-create-home pf9-plane
install -d -m 755 /etc/pf9 /etc/pf9/plane
install -d -o pf9-plane -g pf9-plane -m 700 /var/lib/pf9-plane
secret /etc/pf9/plane/message-queue.password pf9-plane
secret /etc/pf9/plane/keystone.password root

# ---- RabbitMQ
cat > /etc/rabbitmq/rabbitmq.conf <<'CONF'
listeners.tcp.1 = 127.0.0.1:5672
management.tcp.ip = 127.0.0.1
management.tcp.port = 15672
CONF
echo '[rabbitmq_management].' > /etc/rabbitmq/enabled_plugins
chmod 644 /etc/rabbitmq/rabbitmq.conf /etc/rabbitmq/enabled_plugins
systemctl restart rabbitmq-server
until_works rabbitmqctl await_startup
rabbitmqctl --quiet delete_user guest > /dev/null 2>&1 || true
rabbitmqctl --quiet delete_user plane > /dev/null 2>&1 || true
# The password comes on standard input.
rabbitmqctl --quiet add_user plane < /etc/pf9/plane/message-queue.password > /dev/null
rabbitmqctl --quiet set_user_tags plane administrator

# ---- registry
cat > /etc/docker/registry/config.yml <<'CONF'
version: 0.1
storage:
  filesystem:
    rootdirectory: /var/lib/docker-registry
  delete:
    enabled: true
http:
  addr: 127.0.0.1:5000
CONF
chmod 644 /etc/docker/registry/config.yml
systemctl restart docker-registry

# ---- Keystone: without a database server
id keystone > /dev/null 2>&1 || useradd --system --home-dir /var/lib/keystone keystone
install -d -o keystone -g keystone -m 750 /etc/keystone /var/lib/keystone /var/log/keystone
cat > /etc/keystone/keystone.conf <<'CONF'
[DEFAULT]
log_dir = /var/log/keystone
[database]
connection = sqlite:////var/lib/keystone/keystone.db
[token]
provider = fernet
CONF
chown keystone: /etc/keystone/keystone.conf
cat > /etc/systemd/system/plane-keystone.service <<'CONF'
[Unit]
Description=Keystone of the management plane

[Service]
User=keystone
ExecStart=/usr/bin/keystone-wsgi-public --host 127.0.0.1 --port 5100
Restart=always
CONF
as_keystone() { runuser -u keystone -- "$@"; }
as_keystone keystone-manage db_sync
keystone-manage fernet_setup --keystone-user keystone --keystone-group keystone
keystone-manage credential_setup --keystone-user keystone --keystone-group keystone
OS_BOOTSTRAP_PASSWORD="$(cat /etc/pf9/plane/keystone.password)" runuser -u keystone -- \
    keystone-manage bootstrap --bootstrap-public-url http://localhost:8158/v3 --bootstrap-region-id RegionOne

# ---- nginx: tells which host the plane sees, and keeps files
install -d -o www-data -g www-data -m 755 /var/www/plane /var/www/plane/files
cat > /etc/nginx/sites-enabled/default <<'CONF'
server {
    listen 127.0.0.1:8080;
    client_max_body_size 0;
    location = /whoami {
        default_type text/plain;
        return 200 "$http_x_pf9_host_id\n";
    }
    location /files/ {
        root /var/www/plane;
        dav_methods PUT DELETE;
    }
}
CONF
chmod 644 /etc/nginx/sites-enabled/default

# ---- the plane
cat > /etc/pf9/plane.yaml <<CONF
host: $NAME
database: sqlite:///var/lib/pf9-plane/plane.db
message_queue: {management: '127.0.0.1:15672', user: plane, password_file: /etc/pf9/plane/message-queue.password}
CONF
chmod 644 /etc/pf9/plane.yaml
systemctl daemon-reload
runuser -u pf9-plane -- /opt/pf9/plane/planectl init
systemctl restart plane-keystone nginx haproxy pf9-plane
until_works curl --silent --fail http://127.0.0.1:5000/v2/
until_works curl --silent --fail http://127.0.0.1:5100/v3
until_works curl --silent --fail http://127.0.0.1:8080/whoami
until_works rabbitmqctl list_queues --vhost pf9
