"""SVD's image context, beside diffusers' pipeline."""

from __future__ import annotations

import pytest
import torch
from diffusers.pipelines.stable_video_diffusion import pipeline_stable_video_diffusion as theirs
from transformers import CLIPImageProcessor, CLIPTextConfig, CLIPTextModel, CLIPVisionConfig
from transformers import CLIPVisionModelWithProjection as Network

from models.image_encoder import load_image_encoder, shrink
from warehouse.errors import WeightsError

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.mark.parametrize("size", [(224, 224), (100, 180), (576, 1024), (450, 225), (226, 4000)])
def test_pictures_are_shrunk_as_diffusers_does(size):
    x_BCHW = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    ours = shrink(x_BCHW, (224, 224))
    torch.testing.assert_close(ours, theirs._resize_with_antialiasing(x_BCHW, (224, 224)), atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_token_is_that_of_the_pipeline(tmp_path):
    torch.manual_seed(0)
    config = CLIPVisionConfig(**SIZES, image_size=32, patch_size=8, projection_dim=12)
    network = Network(config).eval()
    network.save_pretrained(tmp_path / "image_encoder")
    encoder = load_image_encoder(str(tmp_path), subfolder="image_encoder")
    assert (encoder.side, encoder.width) == (32, 12)
    x_BCHW = torch.rand(2, 3, 72, 128) * 2 - 1
    tokens = encoder.encode(x_BCHW)
    assert tokens.shape == (2, 1, 12) and tokens.dtype == torch.float32
    square = (theirs._resize_with_antialiasing(x_BCHW, (32, 32)) + 1) / 2
    pixels = CLIPImageProcessor()(
        images=square, do_center_crop=False, do_resize=False, do_rescale=False, return_tensors="pt"
    ).pixel_values
    torch.testing.assert_close(tokens[:, 0], network(pixels).image_embeds, atol=1e-5, rtol=1e-5)
    wide = x_BCHW.clone()
    wide[..., :10] = 1  # a crop to the middle would not see this
    assert not torch.allclose(encoder.encode(wide), tokens, atol=1e-3)


def test_what_is_no_image_tower_is_named(tmp_path):
    with pytest.raises(WeightsError, match="no image encoder"):
        load_image_encoder(str(tmp_path / "nothing"))
    CLIPTextModel(CLIPTextConfig(**SIZES, vocab_size=32)).save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match="clip_text_model"):
        load_image_encoder(str(tmp_path))
    config = CLIPVisionConfig(**SIZES, image_size=32, patch_size=8, projection_dim=12)
    Network(config).save_pretrained(tmp_path / "image")
    with pytest.raises(ValueError, match="expected B,3,H,W"):
        load_image_encoder(str(tmp_path / "image")).encode(torch.zeros(1, 4, 8, 8))
