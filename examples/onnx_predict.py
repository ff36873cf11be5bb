"""Name photos with a model that ``heeler export`` wrote; needs onnxruntime and Pillow alone, and no heeler.

python onnx_predict.py model.onnx photo.jpg ...
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def main(model: str, *photos: str) -> None:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    classes = json.loads(session.get_modelmeta().custom_metadata_map["heeler.classes"])
    for photo in photos:
        with Image.open(photo) as image:
            # Cameras note which side is up; the model wants photos as people see them.
            rgb = np.array(ImageOps.exif_transpose(image).convert("RGB"))
        # One photo of any size; several of one size may go together.
        (row,) = session.run(["probabilities"], {"photos": rgb[None]})[0]
        print(f"{photo}: {classes[row.argmax()]} {row.max():.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
