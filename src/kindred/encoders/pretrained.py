"""Text encoders of the package `transformers`: a pretrained BERT and its like."""

from torch import Tensor, nn

from kindred.data.text.inputs import tokens_of
from kindred.errors import ConfigError
from kindred.values import Share


class Pretrained(nn.Module):
    """Token numbers [B, L] -> the mean of the last states [B, F] of a model of `transformers`.

    Its texts must be read with its own tokenizer: `data.source.tokenizer` is the tokenizer.json in its folder. Dropout
    is the model's own and draws from torch's generators: a resume repeats it (`kindred.training.step_seed`), another
    number of devices draws others. Only safetensors weights are read, and no code that comes with a model.

    Args:
        name: of a model on the Hugging Face hub, or the folder of a saved one.
        dropout: rate of hidden states and attention; None: what its configuration says.
        weights: False starts from random ones.

    Raises:
        ConfigError: the package is missing, or there is no such model.
    """

    def __init__(self, name: str, dropout: Share | None = None, weights: bool = True) -> None:
        super().__init__()
        try:
            from transformers import AutoConfig, AutoModel
        except ImportError as error:
            raise ConfigError(
                "encoder: needs the package transformers: make setup, or pip install kindred[transformers]"
            ) from error
        try:
            config = AutoConfig.from_pretrained(name, trust_remote_code=False)
            if dropout is not None:
                config.hidden_dropout_prob = config.attention_probs_dropout_prob = dropout
            if weights:
                self.model = AutoModel.from_pretrained(
                    name, config=config, trust_remote_code=False, use_safetensors=True
                )
            else:
                self.model = AutoModel.from_config(config, trust_remote_code=False)
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ConfigError(f"encoder.name: {name} is no model that transformers can load: {reason}") from error
        if getattr(self.model, "pooler", None) is not None:
            self.model.pooler = None  # its output is not read, and DDP wants every weight to be
        self.num_features, self.padding = int(config.hidden_size), int(config.pad_token_id or 0)

    def forward(self, inputs: Tensor) -> Tensor:
        tokens = tokens_of(inputs)
        there = tokens != self.padding
        states = self.model(input_ids=tokens, attention_mask=there.to(tokens.dtype)).last_hidden_state
        weights = there.to(states.dtype)[..., None]
        return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
