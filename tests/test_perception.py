"""PE-Core's encoder equals timm's with the same random weights, and its files load without any option."""

from functools import partial

import pytest
import torch
from random_weights import TEXTS, assert_close, pictures, randomise

from mlclip.clip import load_clip, perception
from mlclip.clip.model import CLIP, build_clip
from mlclip.clip.perception import PE_PIXELS, PerceptionEncoder
from mlclip.clip.tokenizer import tokenize
from mlclip.config import InputError

WIDTH, SIDE, PATCH, EMBED = 128, 4, 16, 64
TEXT = {"context": 32, "vocab": 49408, "width": 64, "layers": 2}


@pytest.fixture(autouse=True, scope="module")
def no_gradients():
    with torch.inference_mode():
        yield


def ours(class_token=True, width=WIDTH):
    """A small PE-Core with random weights."""
    with torch.device("meta"):
        visual = PerceptionEncoder(SIDE, PATCH, (width, 2, 4 * width), EMBED, class_token, 4 * width)
        model = CLIP(visual, SIDE * PATCH, TEXT, EMBED, "gelu")
    return randomise(model)


def timm_s(model, side, *, heads, class_token):
    """timm's encoder with the weights of ours, converted by timm itself from Meta's names."""
    eva = pytest.importorskip("timm.models.eva")
    width = model.visual.conv1.weight.shape[0]
    reference = eva.Eva(
        img_size=side * PATCH, patch_size=PATCH, embed_dim=width, depth=2, num_heads=heads, mlp_ratio=4, num_classes=EMBED,
        global_pool="map", attn_type="rope", use_pre_transformer_norm=True, use_rot_pos_emb=True, ref_feat_shape=(side, side),
        rope_grid_offset=float(class_token), rope_grid_indexing="xy", attn_pool_num_heads=8, attn_pool_mlp_ratio=4.0,
        class_token=class_token, norm_layer=partial(torch.nn.LayerNorm, eps=1e-5),
    )  # fmt: skip
    reference.load_state_dict(eva._convert_pe(model.state_dict(), reference))
    return reference.eval()


def test_the_image_embeddings_equal_timm_s():
    model = ours()
    assert build_clip(model.state_dict(), "gelu").input_resolution == 64
    reference = timm_s(model, SIDE, heads=2, class_token=True)
    assert_close(build_clip(model.state_dict(), "gelu").encode_image(pictures(64, 64)), reference(pictures(64, 64)))


def test_the_largest_model_has_no_class_token_and_wider_heads(monkeypatch):
    monkeypatch.setitem(perception.WIDE_HEADS, 192, 96)
    model = ours(class_token=False, width=192)
    reference = timm_s(model, SIDE, heads=2, class_token=False)
    assert_close(build_clip(model.state_dict(), "gelu").encode_image(pictures(64, 64)), reference(pictures(64, 64)))
    with torch.device("meta"):
        assert PerceptionEncoder(32, 14, (1536, 1, 8960), 1280, False, 6144).transformer.resblocks[0].attn.heads == 16


def test_at_another_size_positions_are_resized_and_cells_are_still_counted_one_by_one():
    model = ours()
    larger = build_clip(model.state_dict(), "gelu").encode_image(pictures(96, 96))
    positions = perception.resize_positions(model.visual.positional_embedding, (6, 6))
    model.visual.positional_embedding = torch.nn.Parameter(positions)
    assert_close(larger, timm_s(model, 6, heads=2, class_token=True)(pictures(96, 96)))


def test_a_file_loads_with_its_own_pixels_and_activation_without_a_word(tmp_path):
    model, lines = ours(), []
    torch.save(model.state_dict(), tmp_path / "PE-Core-X.pt")
    progress = type("Lines", (), {"log": staticmethod(lines.append), "detail": staticmethod(lambda line: None)})
    loaded = load_clip(tmp_path / "PE-Core-X.pt", progress=progress)
    assert loaded.pixels == PE_PIXELS and loaded.activation == "gelu" and loaded.licence == "apache-2.0" and not lines
    tokens = tokenize(TEXTS, 32)
    assert loaded.context_length == 32 and torch.equal(loaded.tokenize(TEXTS), tokens)
    assert_close(loaded.encode_text(tokens), model.encode_text(tokens))
    with pytest.raises(InputError, match="PE-Core, which has the activation gelu"):
        load_clip(tmp_path / "PE-Core-X.pt", activation="quick_gelu")
