"""What mlx-vlm itself says, greedily: the reference. A program of its own, so that the server's
BLAS can be preloaded for it too. `python library_replies.py MODEL_FOLDER < QUESTIONS > REPLIES` (JSON)"""

import base64
import io
import json
import sys

import mlx_vlm
from mlx_vlm.prompt_utils import apply_chat_template
from PIL import Image


def main() -> None:
    model, processor = mlx_vlm.load(sys.argv[1])
    replies = []
    for question in json.load(sys.stdin):
        files = [base64.b64decode(picture) for picture in question["pictures"]]
        pictures = [Image.open(io.BytesIO(file)).convert("RGB") for file in files]
        prompt = apply_chat_template(processor, model.config, question["text"], num_images=len(pictures))
        pieces = mlx_vlm.stream_generate(
            model, processor, prompt, image=pictures or None, max_tokens=question["tokens"], temperature=0.0
        )
        replies.append("".join(piece.text for piece in pieces))
    json.dump(replies, sys.stdout)


if __name__ == "__main__":
    main()
