"""Patch InfoNCE on the GPU: every program owns a block of rows; no atomics, the same bits every run.

    forward   Z_i = sum_j e^(s_ij - c)                                            2 N^2 D operations, or N^2 D
    backward  W_ij = e^(s_ij - c) (w_i/Z_i + w_j/Z_j),  dL/df_i = sum_j W_ij f_j  4 N^2 D operations

Three launches each: ``prepare`` (directions, edges of excluded blocks, weights), the tiles, and ``rows`` (sums of
partial results, positives, back to the tokens). Positives are M - 1 tokens a row: their terms are set right row by row,
outside the tiles, from what these multiplied; where a block is a whole tile of patches (``exclude="place"``), they join
Z there. Excluded blocks are contiguous, so only tiles at their edges compare labels and tiles inside them are skipped;
unobserved tokens and padding vanish through a column's shift of -inf, which costs nothing. Column splits fill the chip
where there are fewer row blocks than multiprocessors; their partial sums are added in a fixed order.

S is symmetric. In the forward pass a tile can serve its rows and its columns for a partial sum a column, and half
of the tiles do (``forward.halved_kernel``, where ``launch`` finds it worth it). In the backward pass it would cost a
partial gradient a column, D numbers instead of one, whose traffic takes several times as long as the products saved.

float32 tokens are multiplied on tensor cores too, each as a whole number and the rest, in two float16
(``_triton.language.split_whole``): four products for S, three for W f.

Entered through ``launch``: ``forward``, ``backward`` and the tile table.
"""
