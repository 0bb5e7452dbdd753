"""Our retriever as mteb sees one: model, prompt, pooling and fitted repair behind `mteb.evaluate`.

```python
import mteb
from clearsight import Encoder, load_repair
from clearsight.mteb import MtebRetriever

retriever = MtebRetriever(Encoder.load("tiny"), repair=load_repair("runs/repair"))
mteb.evaluate(retriever, mteb.get_tasks(tasks=["CIRRIT2IRetrieval"]))
```

Needs `pip install 'clearsight[mteb]'` for the metadata alone; nothing here is imported by the package itself.
"""

from clearsight.mteb.reranker import MtebReranker
from clearsight.mteb.retriever import MtebRetriever

__all__ = ["MtebReranker", "MtebRetriever"]
