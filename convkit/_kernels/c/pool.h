/* Function pointers of the pool family. */
#ifndef CK_POOL_H
#define CK_POOL_H

typedef struct ck_pool_table {
    int unused;
} ck_pool_table;

#endif
