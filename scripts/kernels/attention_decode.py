"""Attention of one new token a sequence over its paged cache, the context shared out over CTAs.

The new token's q and k are normed and turned here, and its k and v appended to the cache, as
rotary_append does it for many tokens.

    qkv      float32 [B, (HEADS + 2 * KV) * D]   columns of q's heads, then k's, then v's
    q_norm   float32 [D], or NULL       RMS norm over each head of q
    k_norm   float32 [D], or NULL
    cosines  float32 [P, R / 2]         of position * frequency, one row a position
    sines    float32 [P, R / 2]
    keys     T     [C, KV, PAGE, D]     the cache
    values   T     [C, KV, PAGE, D]
    pages    int32 [B, S]               the cache's page of each PAGE positions
    positions int32 [B]                 of the new token; a negative one: the row is left as it is
    out      T     [B, HEADS * D]
    workspace float32 [B * PARTS * SPLITS, BLOCK_G * (BLOCK_D + 2)]   sums, maxima, weights of each
    counters int32 [B * PARTS]          zero before and after

T is float16 or bfloat16.  Query head h reads the key and value head h // (HEADS / KV).  A token
sees itself and the `window` - 1 tokens before it; all before it where window is 0.  softmax in
float32, with the scores times `scale`.  A CTA takes up to BLOCK_G query heads of one key head, one
of PARTS = KV * cdiv(HEADS / KV, BLOCK_G) parts, and one of SPLITS shares of the context, BLOCK_N
positions at a time; the last CTA of a part to arrive sums the splits in their order, so results
repeat bit by bit.

Keys and values pass no shared memory: a warp takes 16 positions, and keys [16, D] and values
[D, 16] are left operands of mma.m16n8k16 as they are loaded, 16 bytes a lane.  A sum over k may run
in any order, and so may the rows of the result, so (lane = 4 g + t)

    d of the keys     [j0, j1, j2, t0, t1, i...]   is k    [j0, t0, t1, j1, j2, i...] of the mma's
    d of the values   [j0, j1, j2, g0, g1, g2, c]  is row  [g0, g1, g2, j0, j1, j2, c]

with a lane's 8 neighbouring numbers in j.  The right operands are the query heads, and the weights
of the positions.

A programmatic launch reads all but qkv, the first block of keys and values too, while the launches
ahead of it still run: none of them may write those.
"""

from linear_layouts import along, linear_layout, log2
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import mma_v2
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@gluon.constexpr_function
def _keys_layout(WARPS, BLOCK_D):
    """[WARPS, 16 (g, ...), BLOCK_D / 32 (i), 4 (t), 8 (j)]: 16 bytes of a key a lane."""
    return linear_layout(
        [WARPS, 16, BLOCK_D // 32, 4, 8],
        [(4, 0, 3), (2, 0, log2(BLOCK_D // 32)), (1, 3, 4)],
        [(3, 0, 2), (1, 0, 3)],
        [(0, 0, log2(WARPS))],
    )


@gluon.constexpr_function
def _values_layout(WARPS, BLOCK_D):
    """[WARPS, 16 (e, t, h), BLOCK_D / 64 (c), 8 (g), 8 (j)]: 16 bytes of a value a lane."""
    return linear_layout(
        [WARPS, 16, BLOCK_D // 64, 8, 8],
        [(4, 0, 3), (2, 0, log2(BLOCK_D // 64)), (1, 0, 1), (1, 3, 4)],
        [(1, 1, 3), (3, 0, 3)],
        [(0, 0, log2(WARPS))],
    )


@gluon.constexpr_function
def _queries_layout(WARPS, BLOCK_G, BLOCK_D):
    """[WARPS, BLOCK_G (g), BLOCK_D / 32 (i), 4 (t), 8 (j)]: what meets a lane's keys."""
    return linear_layout(
        [WARPS, BLOCK_G, BLOCK_D // 32, 4, 8],
        [(4, 0, 3), (2, 0, log2(BLOCK_D // 32))],
        [(3, 0, 2), (1, 0, 3)],
        [(0, 0, log2(WARPS))],
    )


@gluon.constexpr_function
def _heads_layout(ROWS, WARPS, BLOCK_D):
    """[ROWS, BLOCK_D]: a row is a warp's, 8 bytes a lane or more; warps without a row repeat it."""
    own = min(log2(WARPS), log2(ROWS))
    return linear_layout(
        [ROWS, BLOCK_D],
        [(1, 0, log2(BLOCK_D) - 5), (0, own, log2(ROWS))],
        [(1, log2(BLOCK_D) - 5, log2(BLOCK_D))],
        [(0, 0, own), (None, own, log2(WARPS))],
    )


@gluon.constexpr_function
def _splits_layout(SPLITS, WARPS, BLOCK_D):
    """[SPLITS, WARPS, BLOCK_D]: a warp has all parts of a head."""
    return linear_layout(
        [SPLITS, WARPS, BLOCK_D],
        [(2, 0, log2(BLOCK_D) - 5), (0, 0, log2(SPLITS))],
        [(2, log2(BLOCK_D) - 5, log2(BLOCK_D))],
        [(1, 0, log2(WARPS))],
    )


@gluon.constexpr_function
def _sums_layout(WARPS, BLOCK_D, BLOCK_G):
    """[WARPS, BLOCK_D, BLOCK_G]: a lane has all warps' parts of its sums, four d's of a head."""
    bits = [(1, i, i + 1) for i in range(2, log2(BLOCK_D))]
    bits = bits + [(2, i, i + 1) for i in range(log2(BLOCK_G))]
    threads = 5 + log2(WARPS)
    bits = bits + [(None, 0, 1)] * (threads - len(bits))
    return linear_layout(
        [WARPS, BLOCK_D, BLOCK_G],
        [(1, 0, 2), (0, 0, log2(WARPS))] + bits[threads:],
        bits[:5],
        bits[5:threads],
    )


@gluon.jit
def _index(at: gl.constexpr, dim: gl.constexpr):
    """Indices along one dimension of a layout, of its rank."""
    index = gl.arange(0, at.shape[dim], along(at, dim))
    for other in gl.static_range(len(at.shape)):
        if other != dim:
            index = gl.expand_dims(index, other)
    return index


@gluon.jit
def _counts(norm, cosine, sine, columns, partner, D):
    """Factors of each column and of its partner, in heads with this norm or with none."""
    normed = (norm.to(gl.int64) != 0) & (columns < D)
    own = gl.load(norm + columns, mask=normed, other=1.0)
    theirs = gl.load(norm + partner, mask=normed, other=1.0)
    return own * cosine, theirs * sine


@gluon.jit
def _turned(values, others, own, theirs, norm, D, eps):
    """Heads [H, D], their columns' partners beside them, normed and turned."""
    turned = values * own + others * theirs
    if norm.to(gl.int64) != 0:
        turned /= gl.expand_dims(gl.sqrt_rn(gl.sum(values * values, 1) / D + eps), 1)
    return turned


@gluon.jit
def _load_keys(keys, line, left, D, at: gl.constexpr):
    """Keys of a block that begins at `line` of the cache; zeros from `left` on."""
    d = _index(at, 2) * 32 + _index(at, 3) * 8 + _index(at, 4)
    n = _index(at, 0) * 16 + _index(at, 1)
    return gl.load(keys + ((line + n) * D + d), mask=(n < left) & (d < D), other=0.0)


@gluon.jit
def _load_values(values, line, left, D, at: gl.constexpr):
    """Values of a block, as `_load_keys`."""
    d = _index(at, 2) * 64 + _index(at, 3) * 8 + _index(at, 4)
    n = _index(at, 0) * 16 + _index(at, 1)
    return gl.load(values + ((line + n) * D + d), mask=(n < left) & (d < D), other=0.0)


@gluon.jit
def _key_operand(key, operand: gl.constexpr):
    """[WARPS, 16, i, t, j] -> [WARPS, 16, D]."""
    WARPS: gl.constexpr = key.shape[0]
    PARTS: gl.constexpr = key.shape[2]
    key = key.reshape([WARPS, 16, PARTS, 4, 4, 2]).permute([0, 1, 2, 4, 3, 5])
    return gl.convert_layout(key.reshape([WARPS, 16, PARTS * 32]), operand, assert_trivial=True)


@gluon.jit
def _query_operand(query, operand: gl.constexpr):
    """[WARPS, g, i, t, j] -> [WARPS, D, g]."""
    WARPS: gl.constexpr = query.shape[0]
    BLOCK_G: gl.constexpr = query.shape[1]
    PARTS: gl.constexpr = query.shape[2]
    query = query.reshape([WARPS, BLOCK_G, PARTS, 4, 4, 2]).permute([0, 2, 4, 3, 5, 1])
    query = query.reshape([WARPS, PARTS * 32, BLOCK_G])
    return gl.convert_layout(query, operand, assert_trivial=True)


@gluon.jit
def _value_operand(value, operand: gl.constexpr):
    """[WARPS, 16, c, g, j] -> [WARPS, D, 16]."""
    WARPS: gl.constexpr = value.shape[0]
    PARTS: gl.constexpr = value.shape[2]
    value = value.permute([0, 2, 4, 3, 1]).reshape([WARPS, PARTS * 64, 16])
    return gl.convert_layout(value, operand, assert_trivial=True)


@gluon.jit
def _add_block(key, value, query, first, position, begin, scale, most, weights, total):
    """The maxima, weights and sums with one more block, of positions from `first` on."""
    mma: gl.constexpr = total.type.layout
    WARPS: gl.constexpr = total.shape[0]
    left: gl.constexpr = gl.DotOperandLayout(0, mma, 2)
    scores = gl.zeros([WARPS, 16, total.shape[2]], gl.float32, mma)
    scores = mma_v2(_key_operand(key, left), query, scores) * scale
    rows: gl.constexpr = gl.SliceLayout(2, mma)
    k = first + gl.arange(0, WARPS, gl.SliceLayout(1, rows))[:, None] * 16
    k = gl.expand_dims(k + gl.arange(0, 16, gl.SliceLayout(0, rows))[None, :], 2)
    scores = gl.where((k <= position) & (k >= begin), scores, float("-inf"))
    higher = gl.maximum(most, gl.max(scores, 1))
    base = gl.where(higher == float("-inf"), 0.0, higher)  # of a warp that saw nothing yet
    shrunk = gl.exp2(most - base)
    parts = gl.exp2(scores - gl.expand_dims(base, 1))
    weights = weights * shrunk + gl.sum(parts, 1)
    parts = gl.convert_layout(parts.to(value.dtype), gl.DotOperandLayout(1, mma, 2))
    total = mma_v2(_value_operand(value, left), parts, total * gl.expand_dims(shrunk, 1))
    return higher, weights, total


@gluon.jit
def _sum_splits(
    cell, out, group, splits, D, BLOCK_G: gl.constexpr, BLOCK_D: gl.constexpr,
    TOGETHER: gl.constexpr,
):  # fmt: skip
    """The query heads of a part, a head a warp; so many of its splits are loaded at a time."""
    at: gl.constexpr = _splits_layout(TOGETHER, gl.num_warps(), BLOCK_D)
    heads_at: gl.constexpr = along(at, 0, 1)
    sums_at: gl.constexpr = along(at, 1, 2)
    # Of maxima and weights a lane loads its own splits' alone: fewer loads and powers.
    ends_at: gl.constexpr = gl.BlockedLayout([1, 1], [32, 1], [1, gl.num_warps()], [0, 1])
    g_at: gl.constexpr = gl.SliceLayout(0, ends_at)
    size: gl.constexpr = BLOCK_G * (BLOCK_D + 2)
    s = gl.arange(0, TOGETHER, gl.SliceLayout(1, ends_at))[:, None]
    sums_s, w, d = _index(at, 0), _index(at, 1), _index(at, 2)
    for first in range(0, group, gl.num_warps()):
        g = first + gl.arange(0, gl.num_warps(), g_at)
        highest = gl.full([gl.num_warps()], float("-inf"), gl.float32, g_at)
        weights = gl.zeros([gl.num_warps()], gl.float32, g_at)
        total = gl.zeros([gl.num_warps(), BLOCK_D], gl.float32, sums_at)
        for begun in range(0, splits, TOGETHER):
            left = splits - begun
            theirs = cell + begun * size
            there = (s < left) & (g < group)[None, :]
            ends = theirs + s * size + (BLOCK_G * BLOCK_D + g)[None, :]
            most = gl.load(ends, there, float("-inf"), cache_modifier=".cg")
            their_weights = gl.load(ends + BLOCK_G, there, 0.0, cache_modifier=".cg")
            real = (first + w < group) & (d < D) & (sums_s < left)
            sums = theirs + ((first + w) * BLOCK_D + d) + sums_s * size
            sums = gl.load(sums, real, 0.0, cache_modifier=".cg")
            higher = gl.maximum(highest, gl.max(most, 0))
            base = gl.where(higher == float("-inf"), 0.0, higher)  # of heads beyond the last one
            shrunk = gl.exp2(highest - base)
            grown = gl.exp2(most - base[None, :])
            weights = weights * shrunk + gl.sum(their_weights * grown, 0)
            shrunk = gl.convert_layout(shrunk, gl.SliceLayout(1, sums_at))
            grown = gl.expand_dims(gl.convert_layout(grown, heads_at), 2)
            total = total * shrunk[:, None] + gl.sum(sums * grown, 0)
            highest = higher
        g = first + gl.arange(0, gl.num_warps(), gl.SliceLayout(1, sums_at))[:, None]
        weights = gl.convert_layout(weights, gl.SliceLayout(1, sums_at))
        own_d = gl.arange(0, BLOCK_D, gl.SliceLayout(0, sums_at))[None, :]
        result = (total / weights[:, None]).to(out.dtype.element_ty)
        gl.store(out + (g * D + own_d), result, mask=(g < group) & (own_d < D))


@gluon.jit
def attention_decode(
    qkv, q_norm, k_norm, cosines, sines, keys, values, pages, positions, out,
    B, HEADS, KV, D, R, P, C, S, window, SPLITS, eps, scale, workspace, counters,
    PAGE: gl.constexpr, BLOCK_N: gl.constexpr, BLOCK_G: gl.constexpr, BLOCK_D: gl.constexpr,
    TOGETHER: gl.constexpr, DEPENDENT: gl.constexpr = 0,
):  # fmt: skip
    if DEPENDENT:
        gdc_launch_dependents()  # what is launched next waits for the end of this launch itself
    WARPS: gl.constexpr = gl.num_warps()
    gl.static_assert(BLOCK_N == WARPS * 16)
    dtype: gl.constexpr = keys.dtype.element_ty
    mma: gl.constexpr = gl.NVMMADistributedLayout([2, 0], [WARPS, 1, 1], [1, 16, 8])
    keys_at: gl.constexpr = _keys_layout(WARPS, BLOCK_D)
    values_at: gl.constexpr = _values_layout(WARPS, BLOCK_D)
    row = gl.program_id(0).to(gl.int64)
    part = gl.program_id(1)
    split = gl.program_id(2)
    position = gl.load(positions + row)
    # `// 8 * 8` tells the compiler what the constraints promise: rows are aligned.
    D = D // 8 * 8
    per_head = gl.cdiv(HEADS // KV, BLOCK_G)
    parts = KV * per_head
    head = part // per_head
    first_head = head * (HEADS // KV) + part % per_head * BLOCK_G
    group = gl.minimum(BLOCK_G, (head + 1) * (HEADS // KV) - first_head)
    begin = gl.where(window > 0, gl.maximum(position + 1 - window, 0), 0)
    newest = position // BLOCK_N
    first = begin // BLOCK_N
    count = newest + 1 - first
    share = gl.cdiv(count, SPLITS)
    low = first + split * share
    if (position >= 0) & (low <= newest):
        last = gl.minimum(low + share - 1, newest)
        scale *= 1.4426950408889634

        # The last block goes first, since the new token is in it, if in any.
        own_pages = pages + row * S
        per_page: gl.constexpr = PAGE // BLOCK_N
        page = gl.load(own_pages + last // per_page).to(gl.int64)
        line = (page * KV + head) * PAGE + last % per_page * BLOCK_N
        key = _load_keys(keys, line, position - last * BLOCK_N, D, keys_at)
        value = _load_values(values, line, position - last * BLOCK_N, D, values_at)
        q_at: gl.constexpr = _heads_layout(BLOCK_G, WARPS, BLOCK_D)
        k_at: gl.constexpr = _heads_layout(1, WARPS, BLOCK_D)
        d = _index(k_at, 1)
        partner = gl.where(d < R // 2, d + R // 2, d - R // 2)
        partner = gl.where(d < R, partner, d)
        angle = position.to(gl.int64) * (R // 2) + d % (R // 2)
        cosine = gl.load(cosines + angle, mask=d < R, other=1.0)
        sine = gl.load(sines + angle, mask=d < R, other=0.0)
        sine = gl.where(d < R // 2, -sine, sine)
        q_own, q_theirs = _counts(q_norm, cosine, sine, d, partner, D)
        k_own, k_theirs = _counts(k_norm, cosine, sine, d, partner, D)
        page = gl.load(own_pages + low // per_page, mask=low < last, other=0).to(gl.int64)
        if DEPENDENT:
            gdc_wait()
        fresh = qkv + row * ((HEADS + 2 * KV) * D)
        real = d < D
        its = real & (last == newest)
        g = _index(q_at, 0)
        in_q = gl.convert_layout(d, q_at, assert_trivial=True)
        partner_q = gl.convert_layout(partner, q_at, assert_trivial=True)
        there = (g < group) & (in_q < D)
        q_head = fresh + (first_head + g) * D
        k_head = fresh + (HEADS + head) * D
        # All loads go ahead of the branches of the norms, behind which each would wait by itself.
        query = gl.load(q_head + in_q, mask=there, other=0.0)
        q_others = gl.load(q_head + partner_q, mask=there, other=0.0)
        new_key = gl.load(k_head + d, mask=its, other=0.0)
        k_others = gl.load(k_head + partner, mask=its, other=0.0)
        new_value = gl.load(k_head + KV * D + d, mask=its, other=0.0).to(dtype)
        q_own = gl.convert_layout(q_own, q_at, assert_trivial=True)
        q_theirs = gl.convert_layout(q_theirs, q_at, assert_trivial=True)
        query = _turned(query, q_others, q_own, q_theirs, q_norm, D, eps).to(dtype)
        new_key = _turned(new_key, k_others, k_own, k_theirs, k_norm, D, eps).to(dtype)
        # Shared out among the warps, where each has its own columns
        plain: gl.constexpr = gl.SwizzledSharedLayout(8, 1, 1, [1, 0])
        q_room = gl.allocate_shared_memory(dtype, [BLOCK_G, BLOCK_D], plain)
        key_room = gl.allocate_shared_memory(dtype, [1, BLOCK_D], plain)
        value_room = gl.allocate_shared_memory(dtype, [1, BLOCK_D], plain)
        q_room.store(query)
        key_room.store(new_key)
        value_room.store(new_value)
        new = (line + position % BLOCK_N) * D + d
        if part % per_head == 0:
            gl.store(keys + new, new_key, mask=its)
            gl.store(values + new, new_value, mask=its)
        right: gl.constexpr = gl.DotOperandLayout(1, mma, 2)
        queries_at: gl.constexpr = _queries_layout(WARPS, BLOCK_G, BLOCK_D)
        query = q_room.reshape([BLOCK_G, BLOCK_D // 32, 4, 8]).load(gl.SliceLayout(0, queries_at))
        query = gl.expand_dims(query, 0)
        query, _ = gl.broadcast(
            query, gl.zeros([WARPS, BLOCK_G, BLOCK_D // 32, 4, 8], dtype, queries_at)
        )
        query = _query_operand(query, right)
        new_key = key_room.reshape([BLOCK_D // 32, 4, 8]).load(along(keys_at, 2, 3, 4))
        new_value = value_room.reshape([BLOCK_D // 64, 8, 8]).load(along(values_at, 2, 3, 4))
        own_place = position - last * BLOCK_N
        n = _index(keys_at, 0) * 16 + _index(keys_at, 1)
        key = gl.where(n == own_place, gl.expand_dims(gl.expand_dims(new_key, 0), 1), key)
        n = _index(values_at, 0) * 16 + _index(values_at, 1)
        value = gl.where(n == own_place, gl.expand_dims(gl.expand_dims(new_value, 0), 1), value)

        heads_at: gl.constexpr = gl.SliceLayout(1, mma)
        most = gl.full([WARPS, BLOCK_G], float("-inf"), gl.float32, heads_at)
        weights = gl.zeros([WARPS, BLOCK_G], gl.float32, heads_at)
        total = gl.zeros([WARPS, BLOCK_D, BLOCK_G], gl.float32, mma)
        at_block = last
        for index in range(low, last + 1):
            # The next block's loads are under way while this one is multiplied.
            line = (page * KV + head) * PAGE + index % per_page * BLOCK_N
            more = gl.where(index < last, BLOCK_N, 0)
            next_key = _load_keys(keys, line, more, D, keys_at)
            next_value = _load_values(values, line, more, D, values_at)
            after = index + 1
            page = gl.load(own_pages + after // per_page, mask=after < last, other=0).to(gl.int64)
            most, weights, total = _add_block(
                key, value, query, at_block * BLOCK_N, position, begin, scale, most, weights, total
            )
            key, value, at_block = next_key, next_value, index

        highest = gl.max(most, 0)
        base = gl.expand_dims(highest, 0)
        grown = gl.exp2(most - base)
        weights = gl.sum(weights * grown, 0)
        total = total * gl.expand_dims(grown, 1)
        total = total.reshape([WARPS, BLOCK_D // 64, 8, 8, BLOCK_G]).permute([0, 1, 3, 2, 4])
        sums_at: gl.constexpr = _sums_layout(WARPS, BLOCK_D, BLOCK_G)
        total = gl.convert_layout(total.reshape([WARPS, BLOCK_D, BLOCK_G]), sums_at)
        total = gl.sum(total, 0)
        result_at: gl.constexpr = gl.SliceLayout(0, sums_at)
        own_d = gl.arange(0, BLOCK_D, gl.SliceLayout(1, result_at))[:, None]
        g = gl.arange(0, BLOCK_G, gl.SliceLayout(0, result_at))[None, :]
        there = (g < group) & (own_d < D)
        heads = out + row * (HEADS * D) + first_head * D
        if share >= count:
            whole = gl.convert_layout(weights, gl.SliceLayout(0, result_at))[None, :]
            result = (total / whole).to(out.dtype.element_ty)
            gl.store(heads + (g * D + own_d), result, mask=there)
        else:
            size: gl.constexpr = BLOCK_G * (BLOCK_D + 2)
            cell = workspace + (row * parts + part) * SPLITS * size
            mine = cell + split * size
            gl.store(mine + (g * BLOCK_D + own_d), total, mask=there)
            ends = mine + BLOCK_G * BLOCK_D + gl.arange(0, BLOCK_G, along(heads_at, 1))
            gl.store(ends, highest)
            gl.store(ends + BLOCK_G, weights)
            gl.thread_barrier()  # all of this CTA's stores come before its arrival
            arrived = gl.atomic_add(counters + row * parts + part, 1, sem="acq_rel", scope="gpu")
            used = gl.cdiv(count, share)
            if arrived == used - 1:
                gl.store(counters + row * parts + part, 0)
                # Twice as many are one round trip less, but slower where there are few.  Heads of
                # other sizes are seldom, and their PTX is to stay short.
                if BLOCK_D == 128 and used > TOGETHER:
                    _sum_splits(cell, heads, group, used, D, BLOCK_G, BLOCK_D, 2 * TOGETHER)
                else:
                    _sum_splits(cell, heads, group, used, D, BLOCK_G, BLOCK_D, TOGETHER)
