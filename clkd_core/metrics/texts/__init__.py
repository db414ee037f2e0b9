"""Of generated text: BLEU-4 and ROUGE-L without Java, and the published scores with it."""
