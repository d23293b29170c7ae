"""Where each piece of advice is from: published work by short name. A rule without a source says that it has none."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Source:
    """A published source. `where` is an arXiv number, or the venue or page where there is none."""

    short: str
    title: str
    where: str


_ARXIV = (
    ("Brown 2020", "Language Models are Few-Shot Learners", "2005.14165"),
    ("Khattab 2023", "DSPy: Compiling Declarative Language Model Calls into Self-Improving Pipelines", "2310.03714"),
    ("Agrawal 2025", "GEPA: Reflective Prompt Evolution Can Outperform Reinforcement Learning", "2507.19457"),
    ("Pryzant 2023", "Automatic Prompt Optimization with Gradient Descent and Beam Search (ProTeGi)", "2305.03495"),
    ("Willard 2023", "Efficient Guided Generation for Large Language Models", "2307.09702"),
    ("Le Scao 2021", "How Many Data Points is a Prompt Worth?", "2103.08493"),
    ("Lewis 2020", "Retrieval-Augmented Generation for Knowledge-Intensive NLP Tasks", "2005.11401"),
    ("Ovadia 2023", "Fine-Tuning or Retrieval? Comparing Knowledge Injection in LLMs", "2312.05934"),
    ("Gekhman 2024", "Does Fine-Tuning LLMs on New Knowledge Encourage Hallucinations?", "2405.05904"),
    ("Zhou 2023", "LIMA: Less Is More for Alignment", "2305.11206"),
    ("Lambert 2024", "Tulu 3: Pushing Frontiers in Open Language Model Post-Training", "2411.15124"),
    ("Hinton 2015", "Distilling the Knowledge in a Neural Network", "1503.02531"),
    ("Kim 2016", "Sequence-Level Knowledge Distillation", "1606.07947"),
    ("Hu 2021", "LoRA: Low-Rank Adaptation of Large Language Models", "2106.09685"),
    ("Liu 2024", "DoRA: Weight-Decomposed Low-Rank Adaptation", "2402.09353"),
    ("Dettmers 2023", "QLoRA: Efficient Finetuning of Quantized LLMs", "2305.14314"),
    ("Biderman 2024", "LoRA Learns Less and Forgets Less", "2405.09673"),
    ("Kalajdzievski 2023", "A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA", "2312.03732"),
    ("Ben Zaken 2021", "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked LMs", "2106.10199"),
    (
        "Liu 2022",
        "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning",
        "2205.05638",
    ),
    ("Peters 2019", "To Tune or Not to Tune? Adapting Pretrained Representations to Diverse Tasks", "1903.05987"),
    ("Kumar 2022", "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution", "2202.10054"),
    ("Devlin 2018", "BERT: Pre-training of Deep Bidirectional Transformers", "1810.04805"),
    ("Sheng 2023", "S-LoRA: Serving Thousands of Concurrent LoRA Adapters", "2311.03285"),
    ("Rafailov 2023", "Direct Preference Optimization", "2305.18290"),
    ("Azar 2023", "A General Theoretical Paradigm to Understand Learning from Human Preferences (IPO)", "2310.12036"),
    ("Ethayarajh 2024", "KTO: Model Alignment as Prospect Theoretic Optimization", "2402.01306"),
    ("Hong 2024", "ORPO: Monolithic Preference Optimization without Reference Model", "2403.07691"),
    ("Tunstall 2023", "Zephyr: Direct Distillation of LM Alignment", "2310.16944"),
    ("Lee 2023", "RLAIF vs. RLHF: Scaling Reinforcement Learning from Human Feedback with AI Feedback", "2309.00267"),
    ("Shao 2024", "DeepSeekMath: Pushing the Limits of Mathematical Reasoning (GRPO)", "2402.03300"),
    ("Rolnick 2018", "Experience Replay for Continual Learning", "1811.11682"),
    ("Scialom 2022", "Fine-tuned Language Models are Continual Learners", "2205.12393"),
    ("Ibrahim 2024", "Simple and Scalable Strategies to Continually Pre-train Large Language Models", "2403.08763"),
    ("Luo 2023", "An Empirical Study of Catastrophic Forgetting in LLMs During Continual Fine-tuning", "2308.08747"),
    ("Rajbhandari 2019", "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models", "1910.02054"),
    ("Dettmers 2021", "8-bit Optimizers via Block-wise Quantization", "2110.02861"),
    ("Korthikanti 2022", "Reducing Activation Recomputation in Large Transformer Models", "2205.05198"),
    ("Chen 2016", "Training Deep Nets with Sublinear Memory Cost", "1604.06174"),
    ("Dao 2022", "FlashAttention: Fast and Memory-Efficient Exact Attention with IO-Awareness", "2205.14135"),
    ("Wijmans 2024", "Cut Your Losses in Large-Vocabulary Language Models", "2411.09009"),
    ("Kaplan 2020", "Scaling Laws for Neural Language Models", "2001.08361"),
)

_ELSEWHERE = (
    Source("Schulman 2025", "LoRA Without Regret", "Thinking Machines Lab: Connectionism, September 2025"),
    Source("no source", "a rule of thumb of this tool, without a published source", "harness advise"),
)

SOURCES: dict[str, Source] = {
    **{short: Source(short, title, f"arXiv {number}") for short, title, number in _ARXIV},
    **{source.short: source for source in _ELSEWHERE},
}
