import pytest
import torch
from tiny_vlm import tiny_config, tiny_model, tiny_tokenizer, tiny_views

from clkd_core.data.prompts import plan_question, turn_text
from clkd_core.models.llama_vlm import LanguageConfig, LlamaVlm, PackedText
from clkd_core.models.vision.two_scale import TwoScaleConfig
from clkd_core.models.vlm import count_parameters
from clkd_core.types import CAMERAS, EgoState, RouteCommand

QUESTION = plan_question(EgoState(stamp_ns=0, speed_mps=5.0), RouteCommand.LEFT)


def look(model: LlamaVlm, views: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    return model.scene_tokens(model.encode_views(views, present), present)


@torch.no_grad()
def test_encode_views_gives_patches_of_one_size_for_every_camera() -> None:
    model = tiny_model()
    views, present = tiny_views(2)
    features = model.encode_views(views, present)
    vision = model.config.vision
    assert features.shape == (2, len(CAMERAS), vision.patches, vision.channels[-1])
    assert model.image_size == (36, 64)


@torch.no_grad()
def test_missing_view_is_zero_features_and_its_pixels_do_not_matter() -> None:
    model = tiny_model()
    views, present = tiny_views(1)
    present[0, 3] = False
    other = views.clone()
    other[0, 3] = 255 - other[0, 3]
    features = model.encode_views(views, present)
    assert not features[0, 3].any()
    torch.testing.assert_close(look(model, views, present), look(model, other, present))


@torch.no_grad()
@pytest.mark.parametrize("camera", range(len(CAMERAS)))
def test_every_view_that_is_there_changes_the_scores(camera: int) -> None:
    model = tiny_model()
    views, present = tiny_views(1)
    other = views.clone()
    other[0, camera] = 255 - other[0, camera]
    scores = [model.answer_log_probs(look(model, v, present), [QUESTION]) for v in (views, other)]
    assert not torch.allclose(scores[0], scores[1], atol=1e-6)


@torch.no_grad()
def test_changing_the_prompt_changes_the_scores() -> None:
    model = tiny_model()
    scene = look(model, *tiny_views(1))
    other = QUESTION.replace("turn left", "turn right")
    first, second = (model.answer_log_probs(scene, [text]) for text in (QUESTION, other))
    assert not torch.allclose(first, second, atol=1e-6)


@torch.no_grad()
def test_scores_of_a_sample_do_not_depend_on_its_batch() -> None:
    model = tiny_model()
    scene = look(model, *tiny_views(3))
    questions = [QUESTION, plan_question(None, None), QUESTION]
    together = model.answer_log_probs(scene, questions)
    for row, question in enumerate(questions):
        alone = model.answer_log_probs(scene[row : row + 1], [question])
        torch.testing.assert_close(together[row], alone[0], atol=1e-5, rtol=0)


@torch.no_grad()
def test_answer_logits_ignore_what_comes_later() -> None:
    model = tiny_model()
    scene = look(model, *tiny_views(1))
    ids = torch.tensor([model.tokenizer.encode(QUESTION + " KEEP, STRAIGHT")])
    at = torch.tensor([[ids.shape[1] - 2]])
    keep = torch.ones(1, 1, dtype=torch.bool)
    logits = model.answer_logits(scene, PackedText(ids, at, keep))
    changed = ids.clone()
    changed[0, -2:] = model.tokenizer.end_id
    torch.testing.assert_close(logits, model.answer_logits(scene, PackedText(changed, at, keep)))


@torch.no_grad()
def test_prefix_computed_once_in_evaluation_equals_the_one_of_training() -> None:
    model = tiny_model()
    scene = look(model, *tiny_views(1))
    first = model.answer_log_probs(scene, [QUESTION])
    kept = model._prefix
    assert kept is not None
    again = model.answer_log_probs(scene, [QUESTION])
    assert model._prefix is kept
    torch.testing.assert_close(first, again)
    model.train()
    assert model._prefix is None


def test_weights_that_change_in_training_are_not_answered_from_an_old_prefix() -> None:
    model = tiny_model()
    scene = look(model, *tiny_views(1)).detach()
    with torch.no_grad():
        before = model.answer_log_probs(scene, [QUESTION])
    model.train()
    with torch.no_grad():
        for parameter in model.language.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        trained = model.answer_log_probs(scene, [QUESTION])
        evaluated = model.eval().answer_log_probs(scene, [QUESTION])
    assert not torch.allclose(before, evaluated, atol=1e-4)
    torch.testing.assert_close(trained, evaluated, atol=1e-5, rtol=0)


@torch.no_grad()
def test_generate_takes_the_most_probable_token_each_time() -> None:
    model = tiny_model()
    scene = look(model, *tiny_views(2))
    question = turn_text("Is the light red?")
    texts = model.generate(scene, [question, QUESTION], max_new_tokens=4)
    for row, asked in enumerate((question, QUESTION)):
        ids = list(model.tokenizer.encode(asked))
        start = len(ids)
        while len(ids) < start + 4:
            padded = torch.tensor([[*ids, model.tokenizer.pad_id]])
            text = PackedText(padded, torch.tensor([[len(ids)]]), torch.tensor([[True]]))
            best = int(model.answer_logits(scene[row : row + 1], text)[0, 0].argmax())
            if best == model.tokenizer.end_id:
                break
            ids.append(best)
        assert texts[row] == model.tokenizer.decode(ids[start:]).strip()


@torch.no_grad()
def test_attention_of_either_kind_gives_the_same_scores() -> None:
    eager = tiny_model()
    language = LanguageConfig(
        hidden_size=16, layers=4, heads=2, ffn_size=24, init_std=0.2, attention="sdpa"
    )
    fused = LlamaVlm(tiny_config(language=language), eager.tokenizer).eval()
    fused.load_state_dict(eager.state_dict())
    views, present = tiny_views(2)
    scores = [m.answer_log_probs(look(m, views, present), [QUESTION] * 2) for m in (eager, fused)]
    torch.testing.assert_close(scores[0], scores[1], atol=1e-5, rtol=0)


def test_gradients_reach_every_weight() -> None:
    model = tiny_model().train()
    views, present = tiny_views(2)
    present[0, 2] = False
    ids = torch.tensor([model.tokenizer.encode(QUESTION + " KEEP, STRAIGHT")] * 2)
    at = torch.arange(ids.shape[1] - 3, ids.shape[1]).expand(2, -1)
    text = PackedText(ids, at, torch.ones_like(at, dtype=torch.bool))
    model.answer_logits(look(model, views, present), text).square().sum().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without == []


def test_count_parameters_counts_tied_embeddings_once() -> None:
    model = tiny_model()
    vocabulary = tiny_tokenizer().vocab_size * model.config.language.hidden_size
    names = [n for n, p in model.named_parameters() if p.numel() == vocabulary]
    assert len(names) == 1
    assert count_parameters(model) == (sum(p.numel() for p in model.parameters()),) * 2


def test_configs_refuse_sizes_that_cannot_be_built() -> None:
    with pytest.raises(ValueError, match="hidden_size is 10"):
        LanguageConfig(hidden_size=10, heads=4)
    with pytest.raises(ValueError, match="expected even sides"):
        TwoScaleConfig(height_px=35)
    with pytest.raises(ValueError, match="blocks must be >= 1"):
        TwoScaleConfig(blocks=(1, 0, 1, 1))
    with pytest.raises(ValueError, match="expected multiples of 8"):
        TwoScaleConfig(side_channels=(8, 12, 8))
