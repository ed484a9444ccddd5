"""Folders of open_clip and of Hugging Face: equal to their own libraries on the same random weights, text, image and pixels."""

import json
import sys
import warnings

import pytest
import torch
from conftest import Told
from PIL import Image, ImageOps
from random_weights import TEXTS, assert_close, pictures, randomise

import mlclip
from mlclip.clip import load_clip
from mlclip.clip.pixels import OPENAI, Pixels, parse_pixels
from mlclip.clip.registry import licence_of_folder, licence_of_tag, restriction
from mlclip.clip.tokenizer import tokenize
from mlclip.config import InputError, OptionError
from mlclip.images import view_pixels
from mlclip.images.views import view_array
from mlclip.teacher.scoring import Teacher

HALF, SQUASHED = Pixels((0.5,) * 3, (0.5,) * 3), {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear"}
VISION = {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16, "head_width": 16}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 2}
MODEL = {"embed_dim": 48, "vision_cfg": VISION, "text_cfg": TEXT}


@pytest.fixture(autouse=True, scope="module")
def no_gradients():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def reference(open_clip):
    """open_clip's model of MODEL with random weights; its heads are not those that shapes alone would give."""
    model = randomise(open_clip.model.CLIP(**{**MODEL, "vision_cfg": dict(VISION), "text_cfg": dict(TEXT)}))
    model.attn_mask.copy_(torch.full_like(model.attn_mask, float("-inf")).triu(1))
    return model


@pytest.fixture
def folder(reference, tmp_path):
    """An open_clip folder of `reference`, with pixels of its own."""
    return write_open_clip(tmp_path / "laion", reference, {**SQUASHED, "resize_mode": "squash"})


def write_open_clip(folder, model, preprocess, **more):
    folder.mkdir()
    pytest.importorskip("safetensors.torch").save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    config = {"model_cfg": {**MODEL, **more}, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder


def change(file, *path_and_value):
    """Set one field of a json file."""
    *path, key, value = path_and_value
    content = json.loads(file.read_text())
    section = content
    for name in path:
        section = section[name]
    section[key] = value
    file.write_text(json.dumps(content))


# open_clip


def test_a_folder_of_open_clip_gives_activation_heads_and_pixels(folder, reference):
    lines = Told()
    model = load_clip(folder, progress=lines)
    assert (model.activation, model.pixels) == ("gelu", Pixels((0.5,) * 3, (0.5,) * 3, "bilinear", "squash"))
    assert [side.resblocks[0].attn.num_heads for side in (model.visual.transformer, model.transformer)] == [4, 4]
    assert_close(model.encode_text(tokenize(TEXTS)), reference.encode_text(tokenize(TEXTS)))
    assert_close(model.encode_image(pictures(32, 32)), reference.encode_image(pictures(32, 32)))
    assert model.name == str(folder) and not lines.lines
    bare = load_clip(folder / "open_clip_model.safetensors", activation="gelu", pixels=model.pixels)
    assert bare.sha256 != model.sha256  # the file alone has other heads, so other embeddings


def test_usual_heads_leave_the_sha256_of_the_weight_file(open_clip, tmp_path):
    usual = {"vision_cfg": {**VISION, "head_width": 64}, "text_cfg": {**TEXT, "heads": 1}, "quick_gelu": True}
    with torch.device("meta"):
        model = open_clip.model.CLIP(48, dict(usual["vision_cfg"]), dict(usual["text_cfg"]), quick_gelu=True)
    made = write_open_clip(tmp_path / "usual", randomise(model), {}, **usual)
    loaded = load_clip(made)
    assert loaded.pixels == OPENAI and loaded.activation == "quick_gelu"
    assert loaded.sha256 == load_clip(made / "open_clip_model.safetensors").sha256


def test_a_bin_file_with_the_text_encoder_under_text_and_the_bias_of_a_sigmoid_loss(reference, tmp_path):
    made = write_open_clip(tmp_path / "siglip", reference, {}, init_logit_bias=-10, custom_text=True)
    (made / "open_clip_model.safetensors").unlink()
    kept = ("visual.", "logit")
    state = {n if n.startswith(kept) else f"text.{n}": t for n, t in reference.state_dict().items()}
    state |= {"logit_bias": torch.tensor([-16.5]), "logit_scale": reference.logit_scale.reshape(1)}
    torch.save(state, made / "open_clip_pytorch_model.bin")
    teacher = Teacher(load_clip(made))
    assert teacher.logit_bias == -16.5 and teacher.logit_scale == pytest.approx(float(reference.logit_scale.exp()))
    assert_close(teacher.clip.encode_text(tokenize(TEXTS)), reference.encode_text(tokenize(TEXTS)))


# Hugging Face


@pytest.fixture(scope="module")
def clip_model():
    """A function that makes a small random CLIPModel of transformers."""
    transformers = pytest.importorskip("transformers")

    def make(activation="gelu"):
        tower = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "hidden_act": activation}
        text, vision = {"eos_token_id": 49407}, {"image_size": 32, "patch_size": 16}
        both = {"text_config": text, "vision_config": vision}
        sides = {name: tower | {"num_attention_heads": 4} | side for name, side in both.items()}
        model = transformers.CLIPModel(transformers.CLIPConfig(**sides, projection_dim=48))
        for name, t in model.named_parameters():
            noise = torch.randn_like(t) * (0.1 if t.ndim < 2 else t.shape[-1] ** -0.5)
            t.copy_(1 + noise if "norm" in name and t.ndim == 1 else noise)
        return model.eval()

    return make


def embeddings(output):
    return getattr(output, "pooler_output", output)  # a tensor in older versions of transformers


PREPROCESSOR = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 3, "size": {"shortest_edge": 32}}


@pytest.mark.parametrize("form", ["single", "single quick_gelu", "shards", "bin"])
def test_a_hugging_face_folder_equals_transformers(clip_model, tmp_path, form):
    form, _, activation = form.partition(" ")
    activation = activation or "gelu"
    torch.manual_seed(0)
    model = clip_model(activation)
    model.save_pretrained(tmp_path, **({"max_shard_size": "8MB"} if form == "shards" else {}))
    if form == "bin":
        (tmp_path / "model.safetensors").unlink()
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    assert (len(list(tmp_path.glob("model-*.safetensors"))) > 1) == (form == "shards")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    ours, tokens = load_clip(tmp_path), tokenize(TEXTS)
    assert ours.activation == activation and ours.pixels == HALF and ours.transformer.resblocks[0].attn.num_heads == 4
    assert_close(ours.encode_text(tokens), embeddings(model.get_text_features(input_ids=tokens)))
    pixels = pictures(32, 32)
    assert_close(ours.encode_image(pixels), embeddings(model.get_image_features(pixel_values=pixels)))
    assert float(ours.logit_scale) == pytest.approx(float(model.logit_scale))


@pytest.fixture
def hugging_face(clip_model, tmp_path):
    made = tmp_path / "hf"
    clip_model().save_pretrained(made, max_shard_size="8MB")
    (made / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    return made


def test_without_a_preprocessor_config_openai_s_pixels_are_assumed_aloud(hugging_face):
    (hugging_face / "preprocessor_config.json").unlink()
    lines = Told()
    assert load_clip(hugging_face, progress=lines).pixels == OPENAI
    assert "no preprocessor_config.json: OpenAI's pixels are assumed" in lines.lines[0]
    assert load_clip(hugging_face, pixels="half", progress=Told()).pixels == HALF


# Pixels of real photos


def test_our_pixels_of_real_photos_equal_those_of_open_clip(open_clip, voc12):
    modes = (("squash", "bilinear"), ("squash", "bicubic"), ("shortest", "bicubic"), ("longest", "bicubic"))
    for resize, interpolation in modes:
        cfg = {"size": 96, "mean": [0.5] * 3, "std": [0.25, 0.26, 0.27], "interpolation": interpolation}
        cfg["resize_mode"] = resize
        theirs = open_clip.transform.image_transform_v2(open_clip.transform.PreprocessCfg(**cfg), is_train=False)
        pixels = Pixels((0.5,) * 3, (0.25, 0.26, 0.27), interpolation, resize)
        for file in sorted((voc12 / "photos").rglob("*.jpg"))[:4]:
            photo = Image.open(file).convert("RGB")
            if resize != "squash":  # the same only for squares: we squash, they cut or pad
                photo = ImageOps.fit(photo, (min(photo.size),) * 2)
            ours = torch.from_numpy(view_array(photo, 96, interpolation=interpolation))[0].float() / 255
            ours = (ours - torch.tensor(pixels.mean)[:, None, None]) / torch.tensor(pixels.std)[:, None, None]
            assert (ours - theirs(photo)).abs().mean() < 0.01  # 0.0025 of the range from black to white
            other = view_pixels(photo, 96)[0].float() / 255 - 0.5
            assert (other - theirs(photo)).abs().mean() > 0.1


def test_our_pixels_of_real_photos_equal_those_of_transformers(voc12):
    transformers = pytest.importorskip("transformers")
    name = "CLIPImageProcessorPil" if hasattr(transformers, "CLIPImageProcessorPil") else "CLIPImageProcessor"
    theirs = getattr(transformers, name)(**PREPROCESSOR, crop_size=32)
    for file in sorted((voc12 / "photos").rglob("*.jpg"))[:4]:
        photo = Image.open(file).convert("RGB")
        photo = ImageOps.fit(photo, (min(photo.size),) * 2)
        ours = (view_pixels(photo, 32)[0].float() / 255 - 0.5) / 0.5
        expected = torch.as_tensor(theirs(photo, return_tensors="pt")["pixel_values"][0])
        assert (ours - expected).abs().mean() < 0.01


def test_the_teacher_normalises_with_its_own_pixels(folder):
    clip = load_clip(folder)
    views = torch.randint(0, 255, (2, 3, 32, 32), dtype=torch.uint8)
    expected = torch.nn.functional.normalize(clip.encode_image((views.float() / 255 - 0.5) / 0.5), dim=-1)
    torch.testing.assert_close(Teacher(clip).embed_views(views), expected)
    with pytest.raises(OptionError, match=r"`clip_pixels=grey` is not known"):
        parse_pixels("grey")
    assert parse_pixels("0.5/0.5") == parse_pixels("half") == HALF and parse_pixels("OpenAI") == OPENAI
    for wrong in ("0.5", "2/0.5", "0.5/0", "nan/1", "0.5/0.5/nearest", "1,2/3"):
        with pytest.raises(OptionError, match="is not known"):
            parse_pixels(wrong)


# Bare files


def test_a_bare_file_is_used_with_openai_s_facts_only_aloud(reference, tmp_path):
    torch.save(reference.state_dict(), tmp_path / "laion.pt")
    lines = Told()
    load_clip(tmp_path / "laion.pt", progress=lines)
    assert "activation quick_gelu and OpenAI's pixels are assumed" in lines.lines[0]
    assert "open_clip_config.json tells" in lines.lines[0] and lines.lines[0].startswith("warning")
    known = Told()
    load_clip(tmp_path / "laion.pt", activation="gelu", pixels="half", progress=known)
    load_clip("tiny", progress=known)
    assert not known.lines


# Faults


@pytest.mark.parametrize(
    ("kind", "damage", "message"),
    [
        ("folder", lambda d: (d / "open_clip_config.json").unlink(), "holds weights but no open_clip_config.json.*`clip_activation=gelu`"),
        ("folder", lambda d: (d / "open_clip_model.safetensors").unlink(), "without weights of a CLIP .open_clip_model.safetensors"),
        ("folder", lambda d: (d / "open_clip_config.json").write_text("{"), "open_clip_config.json cannot be read as json"),
        ("folder", lambda d: (d / "open_clip_config.json").write_text("[]"), "does not hold an object"),
        ("folder", lambda d: (d / "open_clip_config.json").write_text("{}"), "do not describe a CLIP"),
        ("folder", lambda d: change(d / "open_clip_config.json", "model_cfg", "embed_dim", -3), "embedding size -3.* tensors have 48"),
        ("folder", lambda d: change(d / "open_clip_config.json", "preprocess_cfg", "std", [0, 0, 0]), "the pixels' std"),
        ("folder", lambda d: (d / "adapter_config.json").write_text('{"base_model_name_or_path": "x/y"}'), "LoRA adapter.*Merge it"),
        ("hugging_face", lambda d: sorted(d.glob("model-*"))[0].unlink(), r"does not hold all parts of model-.*Download all"),
        ("hugging_face", lambda d: change(d / "config.json", "architectures", ["a\nb"]), r"a\\+nb.*, not a CLIPModel"),
        ("hugging_face", lambda d: change(d / "config.json", "model_type", "siglip"), "another model .siglip.*hf-hub"),
        ("hugging_face", lambda d: change(d / "config.json", "text_config", "vocab_size", 250000), "vocab_size is '250000'"),
        ("hugging_face", lambda d: change(d / "config.json", "vision_config", "hidden_act", "relu"), "is 'relu'"),
        ("hugging_face", lambda d: change(d / "config.json", "vision_config", "image_size", 64), "image size 64.*tensors have 32"),
        ("hugging_face", lambda d: change(d / "preprocessor_config.json", "resample", 0), "resample is '0'"),
        ("hugging_face", lambda d: change(d / "preprocessor_config.json", "do_rescale", False), "do_rescale is 'False'"),
    ],
)  # fmt: skip
def test_a_damaged_or_foreign_folder_is_refused_in_one_line(request, kind, damage, message):
    folder = request.getfixturevalue(kind)
    damage(folder)
    with pytest.raises(InputError, match=message) as caught:
        load_clip(folder)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["visual.attn_pool.probe"], "only open_clip builds.*PE-Core.*local-dir:DIR"),
        (["visual.trunk.pos_embed"], "only open_clip builds"),
        (["text_model.final_layer_norm.weight", "vision_model.x"], "a Hugging Face file. Pass the folder"),
        (["base_model.model.text_model.q_proj.lora_A.weight"], "a LoRA adapter"),
        (["visual.conv1.weight", "visual.proj"], "not a CLIP checkpoint.*text_projection. is missing"),
    ],
)
def test_a_foreign_weight_file_is_refused_with_what_it_is(tmp_path, names, message):
    torch.save({name: torch.zeros(2) for name in names}, tmp_path / "x.pt")
    with pytest.raises(InputError, match=message):
        load_clip(tmp_path / "x.pt")


# Licences


def test_a_non_commercial_or_research_licence_gives_a_warning_and_travels(folder):
    header = "tags: [clip]\nlicense: other\nlicense_name: apple-amlr"
    (folder / "README.md").write_text(f"---\n{header}\n---\n# license: mit\n")
    lines = Told()
    assert Teacher(load_clip(folder, progress=lines)).licence == "apple-amlr"
    assert "for research only (licence apple-amlr)" in lines.lines[0]
    assert licence_of_folder(folder.parent) == ""
    assert (licence_of_tag("laion2b_s34b_b79k"), licence_of_tag("metaclip_fullcc")) == ("mit", "cc-by-nc-4.0")
    assert restriction(licence_of_tag("dfn5b")) == "for research only" and restriction("mit") is restriction("") is None


# Models that open_clip builds


@pytest.fixture
def sigmoid(open_clip, tmp_path):
    """A local-dir of a model with a timm image encoder and a sigmoid loss, and open_clip's own model of it."""
    pytest.importorskip("timm")
    vision = {"image_size": 64, "timm_model_name": "test_vit", "timm_pool": "avg", "timm_proj": "linear"}
    config = {"embed_dim": 48, "vision_cfg": vision, "text_cfg": {**TEXT, "context_length": 16}, "init_logit_bias": -10}
    preprocess = {**SQUASHED, "resize_mode": "squash"}
    made = tmp_path / "siglip"
    made.mkdir()
    facts = {"model_cfg": {**config, "custom_text": True}, "preprocess_cfg": preprocess}
    (made / "open_clip_config.json").write_text(json.dumps(facts))
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = open_clip.create_model(f"local-dir:{made}", load_weights=False).eval()
    model.logit_bias.data.fill_(-16.5)
    torch.save(model.state_dict(), made / "open_clip_pytorch_model.bin")
    return f"local-dir:{made}", model


def test_a_model_of_open_clip_is_a_teacher_with_its_own_tokenizer_pixels_and_sigmoid_bias(open_clip, sigmoid, capfd):
    name, model = sigmoid
    clip = load_clip(name)
    teacher = Teacher(clip)
    assert (clip.activation, clip.name, clip.context_length) == ("own", name, 16)
    assert clip.pixels == Pixels((0.5,) * 3, (0.5,) * 3, "bilinear", "squash")
    assert teacher.logit_bias == -16.5 and teacher.logit_scale == pytest.approx(float(model.logit_scale.exp()))
    assert teacher.input_size == teacher.stride == teacher.larger_size() == clip.input_resolution
    size = teacher.input_size
    views = torch.randint(0, 255, (3, 3, size, size), dtype=torch.uint8)
    images = model.encode_image((views.float() / 255 - 0.5) / 0.5, normalize=True)
    texts = model.encode_text(open_clip.get_tokenizer(name)(TEXTS), normalize=True)
    torch.testing.assert_close(teacher.embed_views(views), images)
    torch.testing.assert_close(teacher.embed_texts(TEXTS), texts)
    logits = model.get_logits((views.float() / 255 - 0.5) / 0.5, open_clip.get_tokenizer(name)(TEXTS))[0]
    ours = teacher.embed_views(views) @ teacher.embed_texts(TEXTS).T * teacher.logit_scale
    torch.testing.assert_close(ours.softmax(-1), logits.softmax(-1))  # the bias cancels
    torch.testing.assert_close(ours + teacher.logit_bias, logits)
    assert load_clip(name).sha256 == clip.sha256 and len(clip.sha256) == 64
    assert "".join(capfd.readouterr()) == ""


def test_weights_by_tag_take_the_tag_s_activation_pixels_and_licence(open_clip, reference, tmp_path, monkeypatch):
    torch.save(reference.state_dict(), tmp_path / "x.pt")
    tag = {"file": str(tmp_path / "x.pt"), "quick_gelu": True, **SQUASHED, "resize_mode": "longest"}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "small", {"laion2b_x": tag})
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "small", MODEL)
    clip = load_clip("open_clip:small/laion2b_x")
    assert clip.pixels == Pixels((0.5,) * 3, (0.5,) * 3, "bilinear", "longest") and clip.licence == "mit"
    ours = load_clip(write_open_clip(tmp_path / "same", reference, {}, quick_gelu=True))
    assert_close(clip.encode_image(pictures(32, 32)), ours.encode_image(pictures(32, 32)))
    assert_close(clip.encode_text(clip.tokenize(TEXTS)), ours.encode_text(tokenize(TEXTS)))


@pytest.mark.parametrize(
    ("section", "setting", "value"), [("text_cfg", "no_causal_mask", True), ("vision_cfg", "ls_init_value", 0.1)]
)
def test_a_folder_whose_model_only_open_clip_has_is_loaded_by_open_clip(folder, section, setting, value, monkeypatch):
    change(folder / "open_clip_config.json", "model_cfg", section, setting, value)
    monkeypatch.setattr("mlclip.clip.load.load_open_clip", lambda name, offline: pytest.fail(name))
    lines = Told()
    with pytest.raises(pytest.fail.Exception, match=f"^local-dir:{folder}$"):
        load_clip(folder, progress=lines)
    assert lines.lines == [f"open_clip loads {folder}: mlclip's own encoders do not have {setting} {value}"]
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(InputError, match=r"Run: pip install open_clip_torch transformers"):
        load_clip(folder)


def test_a_text_that_the_foreign_tokenizer_would_cut_and_another_size_are_refused(sigmoid):
    teacher = Teacher(load_clip(sigmoid[0]))
    teacher.embed_texts(["a " * 14])  # 16 tokens with start and end
    with pytest.raises(InputError, match=r"the text 'a a .*too many tokens: .*reads at most 16"):
        teacher.embed_texts(["short", "a " * 15])
    with pytest.raises(InputError, match=r"images of \d+×\d+ pixels only"):
        teacher.embed_views(torch.zeros(1, 3, 999, 999, dtype=torch.uint8))


def test_wrong_names_and_weights_for_open_clip_are_refused_in_one_line(sigmoid, tmp_path, monkeypatch):
    made = tmp_path / "siglip"
    for name, message in {
        "open_clip:ViT-B-99/openai": "no weights 'openai' of 'ViT-B-99'.*list_pretrained",
        "open_clip:ViT-B-32": r"no weights 'ViT-B-32' of ''.*list_pretrained",
        "open_clip:ViT-B-32/laion9b": "no weights 'laion9b' of 'ViT-B-32'. Write open_clip:NAME/TAG with one of openai",
        "local-dir:/nowhere": "/nowhere is a folder without weights",
        "hf-hub:no/thing": "open_clip cannot build hf-hub:no/thing.*`offline=True`",
    }.items():
        with pytest.raises(InputError, match=message) as caught:
            load_clip(name, offline=True)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="Remove `clip_activation`"):
        load_clip(sigmoid[0], activation="gelu")
    torch.save({"text.x": torch.zeros(2)}, made / "open_clip_pytorch_model.bin")
    with pytest.raises(InputError, match="does not hold the weights of local-dir"):
        load_clip(sigmoid[0])
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(InputError, match=r"not installed. Run: pip install open_clip_torch transformers"):
        load_clip(sigmoid[0])


@pytest.mark.parametrize("kind", ["folder", "sigmoid"])
@torch.inference_mode(False)
def test_a_folder_labels_photos_and_its_clip_head_finds_it_again(kind, request, photos, tmp_path):
    made = request.getfixturevalue(kind)
    name = str(made) if kind == "folder" else made[0]
    lines, quiet = Told(), {"num_workers": 0, "device": "cpu"}
    for method in ("ccd", "centred"):
        labels = mlclip.pseudolabel(photos, ["red", "green", "blue"], clip=name, method=method, progress=lines, **quiet)
    facts = labels.meta["clip"]
    assert facts["pixels"]["mean"] == [0.5] * 3 and ("logit_bias" in facts) == (kind == "sigmoid")
    mlclip.train(labels, tmp_path / "model.pt", arch="clip-head", progress=lines, **quiet)
    assert len(mlclip.predict(photos, tmp_path / "model.pt", progress=lines, **quiet)) == 12
    assert not [line for line in lines.lines if line.startswith("warning") and "equal" not in line]
