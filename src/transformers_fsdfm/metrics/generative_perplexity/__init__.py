# Copyright 2026 The transformers-fsdfm authors. SPDX-License-Identifier: Apache-2.0
