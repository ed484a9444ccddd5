"""Our encoders equal those of open_clip with the same random weights, and the shapes give the architecture."""

import json
import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from random_weights import TEXTS, assert_close, pictures, randomise

from mlclip.clip.encoders import HEAD_WIDTH, WIDE_HEADS, QuickGELU, resize_positions
from mlclip.clip.model import build_clip
from mlclip.clip.tokenizer import tokenize
from mlclip.config import InputError
from mlclip.teacher.scoring import Teacher

TEXT_SIDE = {"context_length": 77, "vocab_size": 49408, "width": 128, "heads": 2, "layers": 2}
SMALL_VIT = {"image_size": 64, "layers": 2, "width": 128, "patch_size": 16}
SMALL_RESNET = {"image_size": 64, "layers": [1, 2, 1, 1], "width": 16, "patch_size": None, "head_width": 64}


@pytest.fixture(autouse=True, scope="module")
def one_thread_and_no_gradients():
    """On few cores, one thread is faster than several."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode():
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def small(open_clip):
    """A function that makes random open_clip models. `quick_gelu=True` as in OpenAI's models."""
    from open_clip.model import CLIP

    def make(vision, *, quick_gelu=True, text=TEXT_SIDE, embed_dim=64):
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about initialisation without memory
            model = CLIP(embed_dim, dict(vision), dict(text), quick_gelu=quick_gelu)
        model = randomise(model)
        model.attn_mask.copy_(torch.full_like(model.attn_mask, float("-inf")).triu(1))  # a buffer, not yet filled
        return model

    return make


@pytest.mark.parametrize("name", ["ViT-B-32", "RN50", "RN50x4"])
def test_image_and_text_embeddings_equal_the_reference(open_clip, small, name):
    config = open_clip.get_model_config(name)
    reference = small(config["vision_cfg"], text=config["text_cfg"], embed_dim=config["embed_dim"])
    model = build_clip(reference.state_dict())
    size = {"ViT-B-32": 224, "RN50": 224, "RN50x4": 288}[name]
    assert model.input_resolution == size and not model.training and model.dtype == torch.float32
    tokens = tokenize(TEXTS)
    assert_close(model.encode_text(tokens), reference.encode_text(tokens))
    assert_close(model.encode_image(pictures(size, size)), reference.encode_image(pictures(size, size)))


@pytest.mark.parametrize("vision", [SMALL_VIT, SMALL_RESNET], ids=["vit", "resnet"])
@pytest.mark.parametrize(("height", "width"), [(128, 128), (96, 160), (64, 192)])
def test_another_image_size_equals_the_reference_with_resized_positions(small, vision, height, width):
    reference = small(vision)
    model = build_clip(reference.state_dict())
    cell = 16 if vision is SMALL_VIT else 32
    owner = reference.visual if vision is SMALL_VIT else reference.visual.attnpool
    old = owner.positional_embedding
    side = 64 // cell
    grid = old[1:].reshape(side, side, -1).permute(2, 0, 1)[None]
    grid = F.interpolate(grid, (height // cell, width // cell), mode="bilinear", align_corners=False)
    resized = torch.cat([old[:1], grid[0].permute(1, 2, 0).reshape(-1, old.shape[1])])
    owner.positional_embedding = torch.nn.Parameter(resized)
    expected = reference.encode_image(pictures(height, width))
    assert_close(model.encode_image(pictures(height, width)), expected)


def test_positions_of_the_same_size_are_not_changed_and_a_ramp_stays_a_ramp():
    positions = torch.cat([torch.full((1, 1), 9.0), torch.tensor([0.0, 1, 0, 1])[:, None]])
    assert resize_positions(positions, (2, 2)) is positions
    resized = resize_positions(positions, (1, 4))
    torch.testing.assert_close(resized[:, 0], torch.tensor([9.0, 0.0, 0.25, 0.75, 1.0]))


@pytest.mark.parametrize("vision", [SMALL_VIT, SMALL_RESNET], ids=["vit", "resnet"])
def test_each_activation_equals_the_reference_and_they_differ(small, vision):
    tokens, embeddings = tokenize(TEXTS), {}
    for activation in ("quick_gelu", "gelu"):
        reference = small(vision, quick_gelu=activation == "quick_gelu")
        model = build_clip(reference.state_dict(), activation)
        embeddings[activation] = model.encode_text(tokens)
        assert_close(embeddings[activation], reference.encode_text(tokens))
        assert_close(model.encode_image(pictures(64, 64)), reference.encode_image(pictures(64, 64)))
    difference = embeddings["gelu"] - embeddings["quick_gelu"]
    assert difference.norm() > 1e-3 * embeddings["gelu"].norm()
    with pytest.raises(InputError, match=r"unknown CLIP activation 'relu'.*quick_gelu, gelu"):
        build_clip(reference.state_dict(), "relu")


def test_the_shapes_give_the_architecture(small):
    vit = build_clip(small(SMALL_VIT, embed_dim=96).state_dict())
    assert (vit.input_resolution, vit.embed_dim, vit.context_length, vit.vocab_size) == (64, 96, 77, 49408)
    assert len(vit.visual.transformer.resblocks) == len(vit.transformer.resblocks) == 2
    assert vit.visual.conv1.kernel_size == (16, 16) and vit.visual.transformer.resblocks[0].attn.num_heads == 2
    text = {**TEXT_SIDE, "vocab_size": 300, "context_length": 10, "width": 64, "heads": 1, "layers": 1}
    resnet = build_clip(small(SMALL_RESNET, text=text, embed_dim=32).state_dict())
    assert (resnet.input_resolution, resnet.embed_dim, resnet.context_length, resnet.vocab_size) == (64, 32, 10, 300)
    assert [len(resnet.visual.get_submodule(f"layer{n}")) for n in (1, 2, 3, 4)] == [1, 2, 1, 1]


def test_an_unusual_mlp_ratio_and_laion_s_wide_heads_equal_the_reference(small):
    wide = {"width": 1408, "layers": 1, "head_width": 88, "mlp_ratio": 4.3637, "patch_size": 32}
    reference = small(SMALL_VIT | wide)
    model = build_clip(reference.state_dict())
    assert_close(model.encode_image(pictures(64, 64)), reference.encode_image(pictures(64, 64)))


def test_the_head_width_is_right_for_every_model_of_the_reference(open_clip):
    checked = 0
    for path in (Path(open_clip.__file__).parent / "model_configs").glob("*.json"):
        config = json.loads(path.read_text())
        vision, text = config["vision_cfg"], config["text_cfg"]
        if isinstance(vision.get("layers"), int) and "width" in vision and "hf_model_name" not in text:
            assert WIDE_HEADS.get(vision["width"], HEAD_WIDTH) == vision.get("head_width", 64), path.name
            assert text["width"] // HEAD_WIDTH == text["heads"], path.name
            checked += 1
    assert checked > 20


def test_half_precision_files_and_other_checkpoint_entries_are_accepted(small):
    state = small(SMALL_VIT).state_dict()
    others = {name: torch.tensor(1) for name in ("input_resolution", "context_length", "vocab_size")}
    masks = {"transformer.resblocks.0.attn_mask": torch.full((77, 77), float("-inf"))}
    half = build_clip({name: tensor.half() for name, tensor in state.items()} | others | masks)
    assert half.dtype == torch.float32
    whole = build_clip(state).encode_text(tokenize(TEXTS))
    difference = half.encode_text(tokenize(TEXTS)) - whole
    assert 0 < difference.norm() < 0.01 * whole.norm()


def test_texts_do_not_depend_on_longer_ones_beside_them_or_on_tokens_after_the_end(small):
    model = build_clip(small(SMALL_VIT).state_dict())
    tokens = tokenize(["a cat", "a photo of a red car beside a very old and very tall tree"])
    assert_close(model.encode_text(tokens), torch.cat([model.encode_text(text) for text in tokens.split(1)]))
    tokens = tokenize(["a cat", "a cat"])
    tokens[1, 4:] = 7  # after the end token
    embeddings = model.encode_text(tokens)
    torch.testing.assert_close(embeddings[0], embeddings[1])
    torch.testing.assert_close(model.encode_text(tokens[:1, :4])[0], embeddings[0], atol=1e-5, rtol=1e-5)


def test_the_teacher_s_folded_quick_gelu_equals_the_reference_and_leaves_the_file_s_tensors(small):
    reference = small(SMALL_VIT)
    state = reference.state_dict()  # its tensors are those of the model, without a copy
    before = {name: tensor.clone() for name, tensor in state.items()}
    model = build_clip(state)
    for _ in range(2):  # a second teacher of the same CLIP folds nothing more
        Teacher(model)
        assert not any(isinstance(layer, QuickGELU) for layer in model.visual.modules())
        assert_close(model.encode_image(pictures(64, 64)), reference.encode_image(pictures(64, 64)))
    assert all(torch.equal(state[name], before[name]) for name in before) and model.activation == "quick_gelu"
    gelu = build_clip(small(SMALL_VIT, quick_gelu=False).state_dict(), "gelu")
    assert isinstance(Teacher(gelu).clip.visual.transformer.resblocks[0].mlp.gelu, torch.nn.GELU)


def without(name):
    return lambda state: state.pop(name)


def replaced(name, tensor):
    return lambda state: state.update({name: tensor})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without("text_projection"), "text_projection"),
        (without("ln_final.bias"), "ln_final.bias"),
        (without("visual.conv1.weight"), "visual.conv1.weight"),
        (replaced("stranger", torch.zeros(2)), "stranger"),
        (replaced("visual.ln_post.weight", torch.zeros(3)), "visual.ln_post.weight"),
        (replaced("ln_final.weight", torch.zeros(10**6)), "ln_final.weight"),
        (replaced("positional_embedding", torch.zeros(())), "not a CLIP checkpoint"),
        (replaced("visual.positional_embedding", torch.zeros(0, 128)), "do not fit together"),
        (replaced("transformer.resblocks.0.mlp.c_fc.weight", torch.zeros(512, 32)), "not a CLIP checkpoint"),
        (replaced("ln_final.bias", torch.zeros(128, dtype=torch.int64)), "do not fit together"),
        (
            replaced("transformer.resblocks.0.mlp.c_fc.weight", torch.zeros(1, 64 * 10**6)),
            "do not fit together",
        ),  # 10¹⁶ weights
        (lambda state: state.clear(), "not a CLIP checkpoint"),
    ],
)
def test_tensors_that_are_not_a_clip_are_refused_in_one_line(small, damage, message):
    state = dict(small(SMALL_VIT).state_dict())
    damage(state)
    with pytest.raises(InputError, match=message) as caught:
        build_clip(state)
    assert "\n" not in str(caught.value)
