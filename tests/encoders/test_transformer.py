"""The transformer against torch's own layers; its dropout against what the draws say, on any number of ranks."""

from functools import partial

import pytest
import torch
from ranks import run_ranks
from torch import nn

from kindred.data.counter import words
from kindred.data.text.inputs import TOKEN_BITS, tokens_of, with_draws
from kindred.data.text.tokenizer import Special
from kindred.data.text.views import TextView, TextViews
from kindred.distributed import rank, world_size
from kindred.encoders.transformer import KeyedDropout, Transformer, sines
from kindred.errors import ConfigError
from kindred.losses import nt_xent


def test_it_is_torchs_transformer_and_a_mean_over_what_is_there():
    torch.manual_seed(0)
    encoder = Transformer(50, width=16, depth=2, heads=4).double().eval()
    reference = [
        nn.TransformerEncoderLayer(16, 4, 64, 0.0, "gelu", batch_first=True, norm_first=True).double() for _ in range(2)
    ]
    for own, other in zip(encoder.layers, reference, strict=True):
        pairs = [
            (other.self_attn.in_proj_weight, own.queries_keys_values.weight),
            (other.self_attn.in_proj_bias, own.queries_keys_values.bias),
            *zip(other.self_attn.out_proj.parameters(), own.out.parameters(), strict=True),
            *zip(other.linear1.parameters(), own.network[0].parameters(), strict=True),
            *zip(other.linear2.parameters(), own.network[2].parameters(), strict=True),
        ]
        with torch.no_grad():
            for theirs, ours in pairs:
                ours.normal_(std=0.3)
                theirs.copy_(ours)
    tokens = torch.randint(1, 50, (3, 7))
    tokens[0, 5:] = 0
    tokens[1, 1:] = 0
    states = encoder.embedding_norm(encoder.embedding(tokens) + 0.02 * 2**0.5 * sines(7, 16, encoder.norm.weight))
    for layer in reference:
        states = layer(states, src_key_padding_mask=tokens == 0)
    expected = [encoder.norm(row[number != 0]).mean(0) for row, number in zip(states, tokens, strict=True)]
    torch.testing.assert_close(encoder(tokens), torch.stack(expected), rtol=1e-10, atol=1e-12)


def test_padding_changes_nothing_and_a_text_without_tokens_is_zero():
    encoder = Transformer(50, width=16, depth=2).double().eval()
    tokens = torch.randint(1, 50, (2, 6))
    wider = torch.cat([tokens, torch.zeros(2, 5, dtype=torch.int64)], dim=1)
    torch.testing.assert_close(encoder(wider), encoder(tokens), rtol=1e-10, atol=1e-12)
    assert torch.equal(encoder(torch.zeros(1, 4, dtype=torch.int64)), torch.zeros(1, 16, dtype=torch.float64))


def test_draws_do_not_touch_the_tokens_and_evaluation_does_not_see_them():
    tokens = torch.tensor([[0, 1, 8191, (1 << TOKEN_BITS) - 1]])
    inputs = with_draws(tokens, words(0, 0, 0, torch.arange(1), 4))
    assert (inputs >= 0).all()
    assert not torch.equal(inputs, tokens)
    assert torch.equal(tokens_of(inputs), tokens)
    encoder = Transformer(50, width=16).eval()
    tokens = torch.randint(1, 50, (3, 7))
    assert torch.equal(encoder(with_draws(tokens, words(0, 0, 0, torch.arange(3), 7))), encoder(tokens))


def test_dropout_has_its_rate_and_another_mask_for_each_draw_place_and_site():
    states = torch.ones(200, 10, 16)
    tokens = torch.ones(200, 10, dtype=torch.int64)
    inputs = with_draws(tokens, words(0, 0, 0, torch.arange(200), 10))
    masks = [KeyedDropout(0.3, site)(states, inputs) for site in range(2)]
    for mask in masks:
        values = mask.unique()
        assert values[0] == 0
        assert values[1:].tolist() == pytest.approx([1 / 0.7], rel=1e-4)
        deviation = (0.3 * 0.7 / mask.numel()) ** 0.5
        assert float((mask == 0).double().mean()) == pytest.approx(0.3, abs=4 * deviation)
    dropped = torch.stack(masks) == 0
    for rows, bound in (
        (dropped.flatten(0, 1).flatten(1), 0.5),
        (dropped.transpose(1, 2).flatten(2).flatten(0, 1), 0.1),
    ):
        # 160 bits of each text and site, 3,200 of each place and site: the largest of many chance correlations is 5 sigma
        assert torch.corrcoef(rows.double()).fill_diagonal_(0).abs().max() < bound
    assert torch.equal(KeyedDropout(0.3, 0)(states, inputs), masks[0])
    assert torch.equal(
        KeyedDropout(0.3, 0)(states, with_draws(tokens * 7, words(0, 0, 0, torch.arange(200), 10))), masks[0]
    )
    assert torch.equal(KeyedDropout(0.3, 0).eval()(states, inputs), states)
    assert KeyedDropout(1.0, 0)(states, inputs).abs().sum() == 0


def small(seed=0):
    torch.manual_seed(seed)
    return Transformer(40, width=16, depth=2, dropout=0.2).double().train()


def raw_texts(count, length=12):
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(3, 40, (count, length), generator=generator)
    tokens[torch.arange(length) >= torch.randint(4, length + 1, (count, 1), generator=generator)] = 0
    word = torch.where(tokens == 0, -1, torch.arange(length) // 2)
    return torch.stack([tokens, word], dim=1).int()


def gradient_on_ranks():
    """The gradient of NT-Xent over twelve texts, this rank's share averaged with the others'."""
    views = TextViews([TextView(), TextView(delete=0.3, mask=0.2)], seed=5)
    encoder, share = small(), slice(rank() * 12 // world_size(), (rank() + 1) * 12 // world_size())
    raw, index = raw_texts(12)[share], (torch.arange(12) * 17)[share]
    inputs = views.augment(raw, index, epoch=3)
    embeddings = encoder(torch.cat(inputs)).unflatten(0, (2, -1))
    loss = nt_xent(embeddings, 0.2)
    loss.backward()
    gradient = torch.cat([p.grad.flatten() for p in encoder.parameters()])
    if world_size() > 1:
        torch.distributed.all_reduce(gradient)
    return gradient / world_size()


def test_ranks_and_one_process_drop_the_same():
    expected = gradient_on_ranks()
    assert expected.norm() > 1e-2
    for gradient in run_ranks(gradient_on_ranks, 2):
        assert (gradient - expected).norm() <= 1e-10 * expected.norm()


def test_the_same_text_twice_is_another_in_training_and_another_in_each_epoch():
    views, encoder = TextViews([TextView(), TextView()], seed=1), small()
    views.special = Special(0, 2)
    raw, index = raw_texts(6), torch.arange(6)
    first, second = (encoder(view) for view in views.augment(raw, index, 0))
    again = encoder(views.augment(raw, index, 1)[0])
    assert (first - second).norm(dim=1).min() > 1e-2
    assert (first - again).norm(dim=1).min() > 1e-2
    assert torch.equal(encoder(views.augment(raw, index, 0)[0]), first)


@pytest.mark.parametrize(("width", "heads"), [(18, 2), (20, 3)])
def test_a_width_that_does_not_divide_is_refused(width, heads):
    with pytest.raises(ConfigError, match=f"encoder.width is {width}: .*encoder.heads={heads}"):
        Transformer(10, width=width, heads=heads)


@pytest.mark.slow
def test_it_can_be_compiled_to_a_program():
    encoder, tokens = Transformer(50, width=16, depth=1).eval(), torch.randint(0, 50, (3, 7))
    program = torch.export.export(encoder, (tokens,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    more = torch.randint(0, 50, (5, 7))
    torch.testing.assert_close(program.module()(more), encoder(more))


@pytest.mark.slow
def test_a_model_of_transformers_reads_tokens_and_takes_part_in_training(tmp_path):
    transformers = pytest.importorskip("transformers")
    from kindred.encoders.pretrained import Pretrained

    config = transformers.BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    torch.manual_seed(0)
    saved = transformers.BertModel(config, add_pooling_layer=False)
    saved.save_pretrained(tmp_path)
    encoder = Pretrained(str(tmp_path), dropout=0.0)
    tokens = raw_texts(3)[:, 0].long()
    inputs = with_draws(tokens, words(0, 0, 0, torch.arange(3), 12))
    states = saved.eval()(input_ids=tokens, attention_mask=(tokens != 0).long()).last_hidden_state
    expected = torch.stack([row[number != 0].mean(0) for row, number in zip(states, tokens, strict=True)])
    torch.testing.assert_close(encoder(inputs), expected, rtol=1e-4, atol=1e-5)
    encoder.train()(inputs).sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())
    with pytest.raises(ConfigError, match=r"encoder\.name: .*nowhere is no model"):
        Pretrained(str(tmp_path / "nowhere"))
    assert partial(Pretrained, str(tmp_path), weights=False)().num_features == 16
