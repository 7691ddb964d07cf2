"""Which families there are."""

from star_jax.json_files import shown
from star_jax.models.config import DecoderConfig
from star_jax.models.decoder import Decoder, WeightMaker
from star_jax.models.family import Family
from star_jax.models.gemma import GEMMA2, GEMMA3, GEMMA3_WITH_IMAGES
from star_jax.models.granite import GRANITE
from star_jax.models.llama import LLAMA
from star_jax.models.mistral import MISTRAL
from star_jax.models.mixtral import MIXTRAL
from star_jax.models.olmo2 import OLMO2
from star_jax.models.phi3 import PHI3
from star_jax.models.qwen import QWEN2, QWEN3
from star_jax.models.qwen3_moe import QWEN3_MOE
from star_jax.models.seed_oss import SEED_OSS
from star_jax.models.smollm3 import SMOLLM3

_FAMILIES = {
    family.name: family
    for family in (
        LLAMA,
        MISTRAL,
        MIXTRAL,
        QWEN2,
        QWEN3,
        QWEN3_MOE,
        GEMMA2,
        GEMMA3,
        GEMMA3_WITH_IMAGES,
        PHI3,
        GRANITE,
        SMOLLM3,
        OLMO2,
        SEED_OSS,
    )
}


def families() -> dict[str, Family]:
    """All families that are supported, by their `model_type`."""
    return _FAMILIES


def family_of(model_type: object) -> Family:
    """The family with this `model_type`.

    Raises:
      NotImplementedError: it is not supported.
    """
    if not isinstance(model_type, str) or model_type not in families():
        raise NotImplementedError(
            f"config.json: model_type={shown(model_type)} is not supported, only "
            f"{' or '.join(map(repr, families()))}"
        )
    return families()[model_type]


def build(config: DecoderConfig, make: WeightMaker) -> Decoder:
    """A decoder of the configuration's family; its weights are what `make` makes."""
    return family_of(config.family).decoder(config, make)
