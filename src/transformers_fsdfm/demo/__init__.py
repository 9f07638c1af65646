# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""
The page of `fsdfm demo`, where visitors write with a model and see how it works.

```python
handlers = Handlers(Writer(model, tokenizer), Writer(dfm, dfm_tokenizer))
page = build_page(handlers)
print(serve(page))
```
"""

from .handlers import Handlers
from .inputs import Writer
from .page import build_page, serve


__all__ = ["Handlers", "Writer", "build_page", "serve"]
