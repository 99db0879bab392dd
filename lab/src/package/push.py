# Pushes an image to the registry of this host, which has no docker, and prints the digest of the manifest.
#
# Arguments: a file for `docker load` with one image, and NAME:TAG.
import gzip
import hashlib
import json
import sys
import tarfile
import urllib.parse
import urllib.request

REGISTRY = "http://127.0.0.1:5000"
DOCKER = "application/vnd.docker."


def call(method, url, body, kind):
    request = urllib.request.Request(url, data=body, method=method, headers={"Content-Type": kind})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.headers.get("Location")


def blob(name, content, kind):
    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    place = call("POST", f"{REGISTRY}/v2/{name}/blobs/uploads/", b"", "application/octet-stream")
    place = urllib.parse.urljoin(REGISTRY, place)
    place += ("&" if "?" in place else "?") + "digest=" + digest
    call("PUT", place, content, "application/octet-stream")
    return {"mediaType": DOCKER + kind, "size": len(content), "digest": digest}


def main(file, target):
    name, tag = target.split(":")
    with tarfile.open(file) as archive:
        read = lambda member: archive.extractfile(member).read()
        (image,) = json.loads(read("manifest.json"))
        config = blob(name, read(image["Config"]), "container.image.v1+json")
        layers = [
            blob(name, gzip.compress(read(layer), mtime=0), "image.rootfs.diff.tar.gzip")
            for layer in image["Layers"]
        ]
    kind = DOCKER + "distribution.manifest.v2+json"
    manifest = {"schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers}
    manifest = json.dumps(manifest).encode()
    call("PUT", f"{REGISTRY}/v2/{name}/manifests/{tag}", manifest, kind)
    print("sha256:" + hashlib.sha256(manifest).hexdigest())


main(*sys.argv[1:])
