# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
"""
When did each token settle? Timelines of a generation as a page, a picture, an animation or coloured text.

```python
output = model.generate(**inputs, num_steps=8, return_dict_in_generate=True, output_history=True)
timeline = Timeline.from_output(output, tokenizer, input_ids=inputs["input_ids"])
timeline.save("timeline.html")
print(timeline.to_ansi())
```
"""

from .clock import AutoregressiveRun, StepClock
from .race import race_html, save_race
from .record import Timeline


__all__ = ["AutoregressiveRun", "StepClock", "Timeline", "race_html", "save_race"]
