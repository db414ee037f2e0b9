from dataclasses import replace

import pytest
import torch
from tiny_vlm import tiny_t5_config, tiny_t5_language, tiny_t5_model, tiny_tokenizer, tiny_views
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional

from clkd_core.data.prompts import PREAMBLE, answer_text, plan_question, turn_text
from clkd_core.models.answers import build_answer_trie
from clkd_core.models.families import load_families
from clkd_core.models.moe import MoeConfig, iter_moe_ffns, router_terms
from clkd_core.models.t5_vlm import T5LanguageConfig, T5Vlm, T5VlmConfig, TurnText, trie_mask
from clkd_core.models.tokenizer import END_TOKEN, PAD_TOKEN, TextTokenizer
from clkd_core.models.vision.patch_tower import PatchConfig
from clkd_core.models.vision.timm_tower import TimmConfig
from clkd_core.models.vlm import count_parameters
from clkd_core.types import CAMERAS, META_ACTIONS, EgoState, RouteCommand

QUESTION = plan_question(EgoState(stamp_ns=0, speed_mps=5.0), RouteCommand.LEFT)
LIGHT = turn_text("Is the light red?")
TALK = [(QUESTION, " KEEP, STRAIGHT"), (LIGHT, " Yes.")]


def look(model: T5Vlm, views: Tensor, present: Tensor) -> Tensor:
    return model.scene_tokens(model.encode_views(views, present), present)


def encoder_inputs(model: T5Vlm, scene: Tensor, question: str) -> Tensor:
    """(1, S + Q, E) for one scene (1, S, E), nothing padded."""
    ids = torch.tensor([model.tokenizer.encode(question)])
    return torch.cat([scene, model.language.shared(ids)], dim=1)


def spelling_tokenizer() -> TextTokenizer:
    """Every byte is a token: answers are long and share long beginnings."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = [PAD_TOKEN, END_TOKEN]
    trainer = trainers.BpeTrainer(
        vocab_size=258, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([], trainer)
    return TextTokenizer(tokenizer)


@torch.no_grad()
def test_scene_is_every_cameras_name_and_tokens_or_the_fused_tokens_of_one_view() -> None:
    views, present = tiny_views(2)
    concat, gated = tiny_t5_model(), tiny_t5_model(fusion="gated")
    names = sum(len(ids) for ids in concat._view_names)
    assert look(concat, views, present).shape == (2, names + len(CAMERAS) * 2, 16)
    assert look(gated, views, present).shape == (2, 2, 16)
    with_task = tiny_t5_model(fusion="gated", preamble=True)
    task = len(with_task.tokenizer.encode(PREAMBLE))
    assert look(with_task, views, present).shape == (2, task + 2, 16)


@torch.no_grad()
@pytest.mark.parametrize("fusion", ["concat", "gated"])
def test_pixels_of_a_missing_view_do_not_matter(fusion: str) -> None:
    model = tiny_t5_model(fusion=fusion)
    views, present = tiny_views(1)
    present[0, 3] = False
    other = views.clone()
    other[0, 3] = 255 - other[0, 3]
    assert torch.equal(look(model, views, present), look(model, other, present))


@torch.no_grad()
@pytest.mark.parametrize("fusion", ["concat", "gated"])
def test_every_view_that_is_there_changes_the_scores(fusion: str) -> None:
    model = tiny_t5_model(fusion=fusion)
    views, present = tiny_views(1)
    before = model.answer_log_probs(look(model, views, present), [QUESTION])
    for camera in range(len(CAMERAS)):
        other = views.clone()
        other[0, camera] = 255 - other[0, camera]
        after = model.answer_log_probs(look(model, other, present), [QUESTION])
        assert not torch.equal(before, after), CAMERAS[camera]


@torch.no_grad()
@pytest.mark.parametrize("fusion", ["concat", "gated"])
def test_no_view_at_all_is_answered_all_the_same(fusion: str) -> None:
    model = tiny_t5_model(fusion=fusion)
    views, present = tiny_views(1)
    scores = model.answer_log_probs(look(model, views, present & False), [QUESTION])
    assert scores.isfinite().all()


@torch.no_grad()
def test_changing_the_prompt_changes_the_scores() -> None:
    model = tiny_t5_model()
    scene = look(model, *tiny_views(1))
    other = QUESTION.replace("turn left", "turn right")
    first, second = (model.answer_log_probs(scene, [text]) for text in (QUESTION, other))
    assert not torch.allclose(first, second, atol=1e-5)


@torch.no_grad()
def test_scores_of_a_sample_do_not_depend_on_its_batch() -> None:
    model = tiny_t5_model()
    scene = look(model, *tiny_views(3))
    questions = [QUESTION, plan_question(None, None), " Plan:"]
    together = model.answer_log_probs(scene, questions)
    for row, question in enumerate(questions):
        alone = model.answer_log_probs(scene[row : row + 1], [question])
        torch.testing.assert_close(together[row], alone[0], atol=1e-5, rtol=0)


def test_pack_keeps_turns_apart_and_fills_them_up() -> None:
    model = tiny_t5_model()
    encode, end = model.tokenizer.encode, model.tokenizer.end_id
    text = model.pack([TALK, TALK[1:], []])
    assert text.question_ids.shape[:2] == text.answer_ids.shape[:2] == (3, 2)
    assert text.keep.shape == text.targets.shape == (3, 2 * text.answer_ids.shape[2])
    learnt = [*encode(" KEEP, STRAIGHT"), end, *encode(" Yes."), end]
    assert text.targets[0][text.keep[0]].tolist() == learnt
    assert text.targets[1][text.keep[1]].tolist() == [*encode(" Yes."), end]
    assert not text.keep[2].any()
    assert (text.question_ids[1, 1] == model.tokenizer.pad_id).all()
    asked = encode(LIGHT)
    assert text.question_ids[0, 1, : len(asked)].tolist() == list(asked)
    rows = text.rows(slice(1, 2)).to(torch.device("cpu"))
    assert torch.equal(rows.answer_ids, text.answer_ids[1:2])
    assert torch.equal(rows.keep, text.keep[1:2])


@pytest.mark.parametrize("changes", [{}, {"gated_ffn": True, "tie_embeddings": False}])
@torch.no_grad()
def test_answer_logits_are_those_of_transformers_for_each_turn(changes: dict[str, bool]) -> None:
    model = tiny_t5_model(language=tiny_t5_language(**changes))
    scene = look(model, *tiny_views(2))
    text = model.pack([TALK, TALK[::-1]])
    logits = model.answer_logits(scene, text).unflatten(1, (2, -1))
    for row, turns in enumerate((TALK, TALK[::-1])):
        for turn, (question, answer) in enumerate(turns):
            learnt = [*model.tokenizer.encode(answer), model.tokenizer.end_id]
            theirs = model.language(
                inputs_embeds=encoder_inputs(model, scene[row : row + 1], question),
                labels=torch.tensor([learnt]),
            )
            ours = logits[row, turn, : len(learnt)]
            torch.testing.assert_close(ours, theirs.logits[0], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_empty_turns_change_nothing_and_bring_no_nan() -> None:
    model = tiny_t5_model()
    scene = look(model, *tiny_views(3))
    text = model.pack([TALK, TALK[1:], []])
    logits = model.answer_logits(scene, text)
    assert logits.isfinite().all()
    alone = model.answer_logits(scene[1:2], model.pack([TALK[1:]]))
    ours = logits[1][text.keep[1]]
    torch.testing.assert_close(ours, alone[0], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_answer_logits_ignore_what_comes_later_and_other_turns() -> None:
    model = tiny_t5_model()
    scene = look(model, *tiny_views(1))
    text = model.pack([TALK])
    changed = text.answer_ids.clone()
    changed[0, 0, 2:] = model.tokenizer.end_id
    changed[0, 1] = 7
    other = replace(text, answer_ids=changed)
    logits = [model.answer_logits(scene, packed) for packed in (text, other)]
    torch.testing.assert_close(logits[0][:, :3], logits[1][:, :3])
    assert not torch.allclose(logits[0][:, 3], logits[1][:, 3])


def test_text_of_another_family_is_refused() -> None:
    with pytest.raises(TypeError, match="text is int, expected TurnText"):
        tiny_t5_model().answer_logits(torch.zeros(1, 2, 16), 3)  # type: ignore[arg-type]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("spelt", [False, True])
@torch.no_grad()
def test_scores_of_the_trie_are_those_of_decoding_every_answer(
    attention: str, spelt: bool
) -> None:
    torch.manual_seed(0)
    tokenizer = spelling_tokenizer() if spelt else tiny_tokenizer()
    language = tiny_t5_language(attention=attention, init_factor=1.5)
    model = T5Vlm(tiny_t5_config(language=language), tokenizer).eval()
    scene = look(model, *tiny_views(2))
    questions = [QUESTION, " Plan:"]
    scores = model.answer_log_probs(scene, questions)
    for row, question in enumerate(questions):
        inputs = encoder_inputs(model, scene[row : row + 1], question)
        totals = []
        for action in META_ACTIONS:
            ids = torch.tensor([tokenizer.encode(answer_text(action))])
            log_probs = model.language(inputs_embeds=inputs, labels=ids).logits.log_softmax(-1)
            totals.append(log_probs.gather(2, ids[..., None]).sum())
        expected = torch.stack(totals).log_softmax(0)
        torch.testing.assert_close(scores[row], expected, atol=1e-4, rtol=0)
        assert expected.max() - expected.min() > 1.0


def test_trie_mask_turns_the_bias_of_places_into_the_bias_of_depths() -> None:
    trie = build_answer_trie([(1, 2, 3), (1, 4, 5), (6, 7)])  # inner: 1; 6; 1,2; 1,4
    far = torch.randn(2, 5)  # a bias for each distance and head
    places = torch.arange(5)
    bias = far[:, (places[:, None] - places).clamp(min=0)][None]
    total = trie_mask(trie, bias) + bias
    depth = [0, 1, 1, 2, 2]  # the start, then the nodes
    sees = [{0}, {0, 1}, {0, 2}, {0, 1, 3}, {0, 1, 4}]
    for row in range(5):
        for column in range(5):
            if column in sees[row]:
                expected = far[:, depth[row] - depth[column]]
                torch.testing.assert_close(total[0, :, row, column], expected)
            else:
                assert (total[0, :, row, column] < -1e30).all()


@pytest.mark.parametrize("seed", [1, 2, 3])
@torch.no_grad()
def test_generate_takes_the_most_probable_token_each_time(seed: int) -> None:
    model = tiny_t5_model(seed=seed, language=tiny_t5_language(init_factor=1.5))
    scene = look(model, *tiny_views(2))
    texts = model.generate(scene, [LIGHT, QUESTION], max_new_tokens=5)
    for row, asked in enumerate((LIGHT, QUESTION)):
        ids: list[int] = []
        while len(ids) < 5:
            text = model.pack([[(asked, "")]])
            answers = torch.tensor([[[*ids, 0]]])
            text = TurnText(text.question_ids, answers, torch.ones_like(answers[0]).bool())
            best = int(model.answer_logits(scene[row : row + 1], text)[0, -1].argmax())
            if best == model.tokenizer.end_id:
                break
            ids.append(best)
        assert texts[row] == model.tokenizer.decode(ids).strip()


@torch.no_grad()
def test_generate_stops_at_the_end_and_strips_the_text() -> None:
    model = tiny_t5_model(seed=3)
    scene = look(model, *tiny_views(1))
    wanted = [*model.tokenizer.encode(" Yes."), model.tokenizer.end_id]
    steps = iter([*wanted, 5, 5])

    class Learnt(torch.nn.Module):
        def forward(self, _: Tensor) -> Tensor:
            size = torch.tensor(model.tokenizer.vocab_size)
            return functional.one_hot(torch.tensor([[next(steps)]]), int(size)).float()

    model.language.lm_head = Learnt()
    assert model.generate(scene, [LIGHT], max_new_tokens=9) == ["Yes."]
    assert next(steps) == 5


@torch.no_grad()
def test_attention_of_either_kind_gives_the_same_logits() -> None:
    eager = tiny_t5_model()
    config = tiny_t5_config(language=tiny_t5_language(attention="sdpa"))
    fused = T5Vlm(config, eager.tokenizer).eval()
    fused.load_state_dict(eager.state_dict())
    views, present = tiny_views(2)
    text = eager.pack([TALK, TALK[:1]])
    logits = [m(views, present, text) for m in (eager, fused)]
    torch.testing.assert_close(logits[0], logits[1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("fusion", ["concat", "gated"])
@pytest.mark.parametrize("gated_ffn", [False, True])
def test_gradients_reach_every_weight(fusion: str, gated_ffn: bool) -> None:
    language = tiny_t5_language(gated_ffn=gated_ffn, tie_embeddings=not gated_ffn)
    model = tiny_t5_model(fusion=fusion, language=language).train()
    for name, parameter in model.vision_tower.named_parameters():
        if "bn.weight" in name:  # timm starts residual branches at zero
            torch.nn.init.ones_(parameter)
    views, present = tiny_views(3)
    present[0, 2] = False
    present[1] = False
    text = model.pack([TALK, TALK, TALK[:1]])
    logits = model(views, present, text)
    functional.cross_entropy(logits[text.keep], text.targets[text.keep]).backward()
    grads = {name: p.grad for name, p in model.named_parameters()}
    assert [name for name, grad in grads.items() if grad is None or not grad.any()] == []
    assert all(torch.as_tensor(grad).isfinite().all() for grad in grads.values())


def test_blocks_computed_again_in_backward_give_the_same_gradients() -> None:
    grads = []
    for again in (False, True):
        model = tiny_t5_model(moe=MoeConfig(lora_rank=2)).train()
        if again:
            model.checkpoint_blocks()
        logits = model(*tiny_views(2), model.pack([TALK, TALK[:1]]))
        logits.square().mean().backward()
        grads.append([torch.as_tensor(parameter.grad) for parameter in model.parameters()])
    torch.testing.assert_close(grads[0], grads[1], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_training_runs_under_autocast_and_stays_near_float32(kind: str) -> None:
    model = tiny_t5_model(moe=MoeConfig(ffn_kind=kind, lora_rank=2)).train()  # type: ignore[arg-type]
    views, present = tiny_views(2)
    text = model.pack([TALK, TALK[:1]])
    exact = model(views, present, text).detach()
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(views, present, text)
        scores = model.answer_log_probs(look(model, views, present), [QUESTION] * 2)
    torch.testing.assert_close(logits.float(), exact, atol=0.15, rtol=0)
    logits.float().square().mean().backward()
    assert all(torch.as_tensor(p.grad).isfinite().all() for p in model.parameters())
    torch.testing.assert_close(scores.exp().sum(dim=1), torch.ones(2), atol=1e-4, rtol=0)


@torch.no_grad()
def test_experts_count_real_tokens_only() -> None:
    model = tiny_t5_model(moe=MoeConfig(lora_rank=2))
    scene = look(model, *tiny_views(3))
    text = model.pack([TALK, TALK[1:], []])
    model.answer_logits(scene, text)
    asked = [len(model.tokenizer.encode(q)) for q in (QUESTION, LIGHT)]
    read = 3 * scene.shape[1] + asked[0] + 2 * asked[1]  # three turns, not six
    for moe in iter_moe_ffns(model.language.encoder):
        assert int(moe.counted()[1].sum()) == read
    for moe in iter_moe_ffns(model.language.decoder):
        assert torch.equal(moe.counted()[1].flatten(), text.keep.flatten())
    padded = router_terms(model)
    model.answer_log_probs(scene, [QUESTION] * 3)
    assert router_terms(model).losses.isfinite().all()
    model.answer_logits(scene[:1], model.pack([TALK]))
    alone = router_terms(model)
    model.answer_logits(scene[:1].expand(2, -1, -1), model.pack([TALK, []]))
    torch.testing.assert_close(router_terms(model).losses, alone.losses)
    assert not torch.allclose(padded.losses, alone.losses)


def test_family_is_registered_under_its_configs_name() -> None:
    assert load_families()[T5VlmConfig().family] is T5Vlm


T5_SMALL = T5LanguageConfig(
    hidden_size=512, key_size=64, ffn_size=2048, layers=6, decoder_layers=6, heads=8,
    vocab_size=32128,
)  # fmt: skip


def on_paper(**values: object) -> T5Vlm:
    """A model without storage."""
    tokenizer = tiny_tokenizer()
    with torch.device("meta"):
        return T5Vlm(T5VlmConfig(**values), tokenizer)  # type: ignore[arg-type]


def test_model_of_the_papers_size_is_built_without_storage() -> None:
    model = on_paper(vision=TimmConfig(), language=T5_SMALL, tokens_per_view=None)
    assert all(p.is_meta for p in model.parameters())
    assert count_parameters(model.language)[0] == 60_506_624  # T5-small as released
    assert count_parameters(model.vision_tower)[0] == 27_519_354  # Swin-T without classifier


def test_em_vlm4ad_is_a_config() -> None:
    sizes = {"hidden_size": 768, "ffn_size": 3072, "layers": 12, "decoder_layers": 12}
    base = replace(T5_SMALL, heads=12, **sizes)  # type: ignore[arg-type]
    model = on_paper(
        vision=PatchConfig(), language=base, tokens_per_view=None, scene_norm=False, fusion="gated"
    )
    patches = model.vision_tower.config.patches
    assert count_parameters(model.language)[0] == 222_903_552  # T5-base as released
    assert count_parameters(torch.nn.ModuleList([model.fusion]))[0] == 2 * 49 * 768 * 128 + 128
    assert model.slot_embedding is not None
    assert model.slot_embedding.shape == (1, patches, 768)
    assert count_parameters(model)[0] == pytest.approx(236e6, rel=0.01)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"heads": 0}, "heads must be >= 1"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"relative_buckets": 6}, "relative_buckets is 6"),
        ({"relative_max_distance": 16}, "relative_max_distance 16"),
    ],
)
def test_configs_refuse_numbers_out_of_range(values: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_t5_language(**values)


def test_sizes_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(ValueError, match="fusion_width is 0"):
        tiny_t5_config(fusion_width=0)
    with pytest.raises(ValueError, match="vocab_size is 9, expected at least the tokenizer's"):
        tiny_t5_model(language=tiny_t5_language(vocab_size=9))
