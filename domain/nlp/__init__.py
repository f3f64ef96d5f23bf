"""Components for language: sequences of token numbers, (T,) a sample, and the scores of the next token, (V, T)."""

COMPONENTS: dict[str, dict[str, str]] = {
    "model": {"transformer": "domain.nlp.model.transformer:Transformer"},
    "data": {"text": "domain.nlp.data.text:text"},
    "metric": {"bits_per_token": "domain.nlp.metric.bits_per_token:BitsPerToken"},
}
