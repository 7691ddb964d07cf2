"""SmolLM2-135M-Instruct on every task that needs no download, beside star and StreamingLLM.

    python -m tools.smollm2
    python -m star_jax.eval --config=configs/smollm2_suites.py
    python -m star_jax.eval --config=configs/smollm2_suites.py:babilong
    python -m star_jax.eval --config=configs/smollm2_suites.py:infinitebench

By exact attention alone (`--config.attention.kind=dense`) the three took half an hour on two busy
CPU cores: niah_single_1 and 2, passkey and number_string 100, niah_multikey_1 80, niah_single_3 70,
niah_multivalue 65, niah_multiquery 63, fwe 47, and the others 20 or less
(`benchmarks/results/smollm2_tasks.csv`; there are also 2048 tokens, of 26 minutes on a core, 4096,
of 69, and 8192). Four of those between, with 100 questions each, took two hours of one busy core:
niah_single_3, niah_multikey_2, niah_multivalue and niah_multiquery get 71, 13, 77 and 63 exactly,
57, 12, 71 and 64 by star, 26, 2, 41 and 41 without its anchor, and 13, 4, 24 and 26 by StreamingLLM
(`smollm2_suites.csv` there). Of 100 passkeys at 2048 tokens they find 40, 17, 0 and 18, in 50
minutes of one busy core. Exact attention and star alone take 15 to 40 minutes there for 100
questions of a task: 78 and 80 of niah_single_3, 63 and 52 of niah_multivalue, 57 and 58 of
niah_multiquery, 93 and 88 of number_string.
"""

from star_jax.eval.config import (
    AttentionConfig,
    DataConfig,
    EvalConfig,
    GenerationConfig,
    MeshConfig,
    ModelConfig,
)

# The tasks of a suite, and how many tokens its longest answers take.
SUITES = {
    "ruler": (
        "niah_single_1,niah_single_2,niah_single_3,niah_multikey_1,niah_multikey_2,"
        "niah_multikey_3,niah_multivalue,niah_multiquery,vt,cwe,fwe",
        128,
    ),
    "babilong": ("qa1,qa2,qa3,qa4,qa5", 16),
    "infinitebench": ("passkey,number_string,kv_retrieval,math_find,code_run", 48),
}


def get_config(suite: str = "ruler") -> EvalConfig:
    if suite not in SUITES:
        raise ValueError(f"{suite=} is none of {', '.join(SUITES)}")
    tasks, max_new_tokens = SUITES[suite]
    return EvalConfig(
        model=ModelConfig(path="checkpoints/smollm2", dtype="bfloat16"),
        attention=AttentionConfig(
            kind="dense,star,streaming",
            block_size="L/4",
            anchor_size="b,0",
            sinks="16",
            window="L/4",
        ),
        mesh=MeshConfig(),
        data=DataConfig(
            suite=suite,
            tasks=tasks,
            lengths="1024",
            num_samples=10,
            batch_size=10,
            template="chat",
            haystack="substitute" if suite == "ruler" else "",
        ),
        generation=GenerationConfig(max_new_tokens=max_new_tokens),
        output_dir=f"results/smollm2_suites/{suite}",
    )
