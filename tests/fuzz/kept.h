/* kept.h: memory of the table, in fuzz targets that play with a whole one.
 *
 * The table is built with these in place of aligned_alloc and free: its parts are so large that AddressSanitizer would map
 * and unmap them with each play, which costs more than the play. They are kept for the next one. */
#ifndef KEPT_H
#define KEPT_H

#include <stdlib.h>

void *kept_alloc(size_t alignment, size_t nbytes);
void kept_free(void *block);

static struct {
    void *block;
    size_t nbytes;
    int is_taken;
} kept[8];

enum {
    N_KEPT = sizeof kept / sizeof kept[0]
};

void *kept_alloc(size_t alignment, size_t nbytes)
{
    for (int i = 0; i < N_KEPT; i++) {
        if (kept[i].is_taken || (kept[i].block && kept[i].nbytes != nbytes))
            continue;
        if (kept[i].block == NULL)
            kept[i].block = aligned_alloc(alignment, kept[i].nbytes = nbytes);
        kept[i].is_taken = 1;
        return kept[i].block;
    }
    return NULL;
}

void kept_free(void *block)
{
    for (int i = 0; i < N_KEPT; i++)
        if (block && kept[i].block == block) {
            kept[i].is_taken = 0;
            return;
        }
    free(block);
}

#endif
