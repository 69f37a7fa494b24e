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
    tokenizer = getattr(processor, "tokenizer", processor)
    stops = tokenizer.stopping_criteria.eos_token_ids
    replies = []
    for question in json.load(sys.stdin):
        files = [base64.b64decode(picture) for picture in question["pictures"]]
        pictures = [Image.open(io.BytesIO(file)).convert("RGB") for file in files]
        prompt = apply_chat_template(processor, model.config, question["text"], num_images=len(pictures))
        pieces = mlx_vlm.stream_generate(
            model, processor, prompt, image=pictures or None, max_tokens=question["tokens"], temperature=0.0
        )
        # Its tokens, not its text: of bytes that make no code point, its streaming detokenizer drops some.
        ids = [piece.token for piece in pieces if piece.finish_reason is None]  # the last one repeats a token
        replies.append(tokenizer.decode([id for id in ids if id not in stops], skip_special_tokens=False))
    json.dump(replies, sys.stdout)


if __name__ == "__main__":
    main()
