/* Function pointers of the elementwise family. */
#ifndef CK_ELEMENTWISE_H
#define CK_ELEMENTWISE_H

typedef struct ck_elementwise_table {
    int unused;
} ck_elementwise_table;

#endif
