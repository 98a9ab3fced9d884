#!/bin/sh
# Environments of the peers that bench_store.py measures, one each, below a folder:
#     sh scripts/bench_peers/setup.sh /tmp/peers [litdata] [webdataset] [mds]
# torch goes first and the peers come without their dependencies, as litdata and mosaicml-streaming
# would else replace torch; then follow those dependencies that reading and writing local data needs.
set -eu
python=${PYTHON:-python3}
root=${1:?folder for the environments}
shift
[ $# -gt 0 ] || set -- litdata webdataset mds

install() { # name, the peer, then what it needs
    name=$1 peer=$2
    shift 2
    "$python" -m venv "$root/$name"
    pip="$root/$name/bin/pip install --quiet --disable-pip-version-check"
    $pip torch==2.13.0
    $pip --no-deps "$peer"
    $pip torch==2.13.0 "$@" # torch again: nothing may replace it
}

# mosaicml-streaming imports torchvision for its picture data sets, which no part of this uses, and
# torchvision's wheels fit other builds of torch: three empty names stand in for it.
stub_torchvision() {
    folder=$("$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/torchvision
    mkdir -p "$folder/transforms"
    touch "$folder/__init__.py" "$folder/transforms/__init__.py"
    printf 'class VisionDataset:\n    pass\n\n\nclass CIFAR10:\n    pass\n' >"$folder/datasets.py"
    printf 'def to_tensor(picture):\n    raise NotImplementedError\n' \
        >"$folder/transforms/functional.py"
}

for name in "$@"; do
    case $name in
    litdata) install litdata litdata==0.2.76 lightning-utilities numpy boto3 requests \
        'urllib3>=1.26' tifffile obstore ;;
    webdataset) install webdataset webdataset==1.0.2 braceexpand numpy pyyaml ;;
    mds)
        install mds mosaicml-streaming==0.13.0 'numpy<2.2' 'transformers<5' tqdm 'xxhash<4' \
            'zstd<2' Brotli python-snappy 'catalogue<3' requests pillow
        stub_torchvision "$root/mds"
        ;;
    *) echo "unknown peer $name: litdata, webdataset or mds" >&2 && exit 2 ;;
    esac
    echo "$root/$name is ready"
done
