/* Function pointers of the depthwise family. */
#ifndef CK_DEPTHWISE_H
#define CK_DEPTHWISE_H

typedef struct ck_depthwise_table {
    int unused;
} ck_depthwise_table;

#endif
