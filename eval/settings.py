"""What a config file returns: the settings of an evaluation.

The `name: text` lines are what `--help` shows of each.
"""

import dataclasses

from star_jax.runs.devices import MeshConfig
from star_jax.runs.drawing import GenerationConfig


@dataclasses.dataclass
class ModelConfig:
    """The model.

    path: a checkpoint's directory, or its id on the hub.
    dtype: of weights, activations and cache: bfloat16, float16 or float32.
    """

    path: str = ""
    dtype: str = "bfloat16"


@dataclasses.dataclass
class AttentionConfig:
    """How contexts are encoded. Comma lists; each combination is a row of the result.

    kind: star; exact attention: dense, ring, ulysses; streaming: sinks and a window. A comma list.
    block_size: in tokens, or a part of the length: 1024, L/4. A comma list.
    anchor_size: in tokens, or a part of the length or of the block: 0 (none), L/8, b/4, b. A
      comma list.
    anchor_content: which tokens the anchor of a block has, for ablations: first (of the context),
      previous (the last before the block), earlier (of a block drawn at random), shuffled, random,
      constant, or query (each question then encodes its context for itself). first@random gives
      the first tokens random positions before the block, and first@previous the last ones before
      it. A comma list. Others than first are without halo and correction.
    halo: how many keys of the block before it a block also sees: 0 (none), 256, 3b/4. A comma
      list.
    correction: what mends a block's rows: none, delta, tangent, both. A comma list.
    stride: of this many rows a correction attends one exactly. A comma list.
    sinks: of kind streaming, how many of the context's first tokens every token sees. A comma list.
    window: of kind streaming, how many tokens up to its own a token sees. A comma list.
    implementation: what computes attention; empty picks the best for the devices.
    """

    kind: str = "dense,star"
    block_size: str = "L/4"
    anchor_size: str = "b"
    anchor_content: str = "first"
    halo: str = "0"
    correction: str = "none"
    stride: str = "64"
    sinks: str = "1000"
    window: str = "8000"
    implementation: str = ""


@dataclasses.dataclass
class CacheConfig:
    """How what was encoded is kept. Each of the comma lists' combinations is a row of the result.

    dtype: of keys and values: model (the model's own), int8, fp8 (E4M3).
    keep: the share of the keys of each block that star keeps, above 0; 1: all of them.
    criterion: what chooses them: attention, compactor, expected, keydiff, norm, random.
    """

    dtype: str = "model"
    keep: str = "1"
    criterion: str = "compactor"


@dataclasses.dataclass
class DataConfig:
    """The questions.

    suite: ruler generates them; jsonl reads them from data.path; babilong and infinitebench read
      them there, or generate tasks whose rules allow it where data.path is empty.
    path: a file of JSON lines. {task} and {length} in it are filled in. For babilong and
      infinitebench the directory of their files.
    tasks: a comma list; empty: all of RULER's, BABILong's qa1 to qa5, or those of InfiniteBench
      that Star Attention's paper has. For jsonl only where the path has {task}.
    lengths: a comma list, in tokens: how long RULER's questions are made, to within a line, a
      word or a document (a line of niah_multikey_3 has some 80 tokens); L in sizes stands for it.
      For jsonl only where the path has {length}; else L is the file's longest context.
      Of BABILong's files, 16384 are those that it calls 16k, and so on. InfiniteBench's contexts
      lose their middle to fit.
    num_samples: per task and length, from the first (InfiniteBench's stand by context: all of its
      first one before any of the next); -1: the whole file, or of questions that are generated
      500, BABILong's 1000.
    batch_size: how many questions are asked at once, at most 4096; 0: the size of the mesh's data
      axis. Answers do not depend on it; those of exact attention kept in 8 bits do a little, as
      its contexts are cut and scaled as the longest of them is long.
    seed: of questions that are generated.
    template: base leaves text as it is; chat puts each question into the model's own chat
      template, cut between context and question, the answer's prefix after the header of the
      assistant's turn; llama3 is the one that the paper of Star Attention used, meta-llama3 the
      one that RULER has for the same models; rendered, for jsonl, takes texts that were put into a
      template before, as NVIDIA's scripts write them: what spells a special token is that token.
    compat: how RULER's questions are made. exact: ours, every sample fitted by itself. ruler: as
      NVIDIA's RULER makes them today. star: as the paper of Star Attention ran them, quirks
      included. star_jax/eval/ruler/modes.py says what each reproduces.
    sources: a directory with the files that seven of RULER's tasks need: PaulGrahamEssays.json
      (or essays as .txt), squad.json, hotpotqa.json.
    haystack: prose for the five of these that hide needles in essays: a file, .txt or .json with
      a "text"; empty: the one in data.sources. substitute: prose that comes with the package,
      whose results are labelled, since they are not RULER's.
    keys: a file of key words for RULER, one per line; empty: the benchmark's own. Tasks whose
      keys are no words ignore it.
    metric: what scores the answers to jsonl's questions. match_all and match_part: all of the
      references occur in the answer, as a share, or any; exact_match and f1: over words, as SQuAD
      has them; rouge: ROUGE-Lsum; perplexity: nothing is generated, and it is measured how likely
      the first reference is, given context and query (with a space before it where neither has
      one). Empty: match_all; but where the path has {task}, a task that is called as one of
      RULER's has RULER's metric, and without generation.max_new_tokens RULER's number of new
      tokens (of fwe 50 in RULER's layout, and 120 in Star Attention's). The other suites have
      metrics of their own.
    prepared: a directory that python -m star_jax.prepare writes questions to; they are read from
      there and not drawn. Answers do not depend on it. Where nothing is there yet, questions are
      drawn, and not kept.
    """

    suite: str = "ruler"
    path: str = ""
    tasks: str = ""
    lengths: str = ""
    num_samples: int = -1
    batch_size: int = 0
    seed: int = 0
    template: str = "base"
    compat: str = "exact"
    sources: str = ""
    haystack: str = ""
    keys: str = ""
    metric: str = ""
    prepared: str = ""


@dataclasses.dataclass
class EvalConfig:
    """A run of `python -m star_jax.eval`.

    output_dir: where the results go.
    profile_dir: where a profile of one batch goes; empty: none.
    compile_cache_dir: where compiled programs are kept for the next run; empty: where
      JAX_COMPILATION_CACHE_DIR says, if it does. Processes on several nodes must share it.
    """

    model: ModelConfig
    attention: AttentionConfig
    mesh: MeshConfig
    data: DataConfig
    generation: GenerationConfig
    output_dir: str
    profile_dir: str = ""
    compile_cache_dir: str = ""
    cache: CacheConfig = dataclasses.field(default_factory=CacheConfig)
